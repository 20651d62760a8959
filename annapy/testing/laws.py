"""The laws of a lattice, checked: with Hypothesis for any type, in a native loop for built-in ones.

    associative   (a | b) | c == a | (b | c)        commutative  a | b == b | a
    idempotent    a | a == a                        bottom       T() | a == a, T() <= a
    order         a <= b exactly if a | b == b; a <= a | b; < and == agree with it
    canonical     equal values have equal bytes, and equal hashes
    codec         T.decode(bytes(a)) == a, with the same bytes
    hardened      a truncation, a flipped bit or garbage is refused, or decodes to what has exactly
                  these bytes; nothing but ValueError (CorruptCellError is one) comes out
    deltas        built-in: x | delta is x after the operation, and all deltas, in any order and
                  repeated, join to what all full states join to
    siblings      your own: what three actors wrote concurrently joins to the same as the values

Owns    Report, LawBroken, the laws. Every check counts itself in the report.
Source  Shapiro et al. 2011 (the laws); Almeida et al. 2018 (deltas).
"""

from __future__ import annotations

from annapy._core import face
from annapy.errors import CorruptCellError
from annapy.lattice.base import CellLattice, Lattice
from annapy.testing import histories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from random import Random
    from typing import Any, NoReturn

    import hypothesis
    from hypothesis import strategies as st

__all__ = ["CONCURRENT_SHARE_MIN", "LawBroken", "Report", "campaign", "check_lattice"]

CONCURRENT_SHARE_MIN = 0.3
_SHARE_MATTERS_FROM = 100  # pairs: below it, a share says little
_STATES_PER_HISTORY = 40


class LawBroken(AssertionError):  # noqa: N818  it says what happened
    """A law of lattices does not hold; the message has the law and the values."""


class Report:
    """What a check has looked at.

    examples: {law: how often it was checked}; pairs, concurrent: how many pairs of values were
    compared, and how many of them neither way; refused: operations that a state refused.
    """

    __slots__ = ("concurrent", "examples", "name", "pairs", "refused", "seed")

    def __init__(self, name: str, seed: int | None = None) -> None:
        self.name = name
        self.seed = seed
        self.examples: dict[str, int] = {}
        self.pairs = 0
        self.concurrent = 0
        self.refused = 0

    @property
    def concurrent_share(self) -> float:
        """Concurrent pairs of all pairs, 0.0 to 1.0."""
        return self.concurrent / self.pairs if self.pairs else 0.0

    def __repr__(self) -> str:
        laws = ", ".join(f"{law} {n:,}" for law, n in sorted(self.examples.items()))
        seed = "" if self.seed is None else f"; seed {self.seed}"
        return (
            f"<{self.name}: {self.concurrent_share:.0%} of {self.pairs:,} pairs concurrent;"
            f" {laws}{seed}>"
        )

    def count(self, law: str, holds: object, *values: object) -> None:
        """One more example of a law; LawBroken if it does not hold."""
        if not holds:
            self.fail(law, *values)
        self.examples[law] = self.examples.get(law, 0) + 1

    def fail(self, law: str, *values: object) -> NoReturn:
        """Raises LawBroken with the values that broke it."""
        shown = "".join(f"\n  {chr(ord('a') + i)} = {x!r}" for i, x in enumerate(values))
        raise LawBroken(f"{self.name} is not {law}:{shown}")


# --- values, through the public operators -------------------------------------------------------


def _check_values(report: Report, bottom: Lattice, a: Any, b: Any, c: Any) -> None:
    ab = a | b
    report.count("associative", ab | c == a | (b | c), a, b, c)
    report.count("commutative", ab == b | a, a, b)
    report.count("idempotent", a | a == a and ab | b == ab, a, b)
    report.count("bottom", bottom | a == a == a | bottom and bottom <= a, a)
    below, above = a <= b, b <= a
    report.count(
        "order",
        below == (ab == b)
        and above == (ab == a)
        and a <= ab
        and b <= ab
        and (below and above) == (a == b)
        and (a < b) == (below and not above)
        and (a >= b) == above
        and (a > b) == (above and not below),
        a,
        b,
    )
    report.count(
        "canonical",
        bytes(ab) == bytes(b | a)
        and (bytes(a) == bytes(b)) == (a == b)
        and bytes(ab | c) == bytes(a | (b | c))
        and (a != b or hash(a) == hash(b)),
        a,
        b,
        c,
    )
    report.pairs += 1
    report.concurrent += not below and not above


def _check_codec(report: Report, cls: type[Lattice], x: Any, rng: Random) -> None:
    data = bytes(x)
    report.count("codec", cls.decode(data) == x and bytes(cls.decode(data)) == data, x)
    broken = [data[:n] for n in range(len(data))] if len(data) < 64 else []
    broken += [data[: rng.randrange(len(data))] if data else b"" for _ in range(4)]
    for _ in range(8):
        if data:
            at = rng.randrange(len(data))
            broken.append(data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :])
    broken += [data + b"\0", rng.randbytes(rng.randrange(40))]
    refused = CorruptCellError if issubclass(cls, CellLattice) else ValueError
    for garbage in broken:
        try:
            back = bytes(cls.decode(garbage))
        except refused:
            back = garbage
        except Exception as error:
            raise LawBroken(
                f"{cls.__name__}.decode({garbage!r}) raised {type(error).__name__}: {error};"
                f" bytes that `encode` never returns must raise {refused.__name__}"
            ) from error
        report.count("hardened", back == garbage, garbage, back)


def _check_siblings(report: Report, x: Any, y: Any, z: Any) -> None:
    from annapy.lattice.user import Siblings

    empty = Siblings()
    three = [empty.write(v, actor=i + 1) for i, v in enumerate((x, y, z))]
    whole = x | y | z
    orders = (three[0] | three[1] | three[2], three[2] | (three[1] | three[0]))
    report.count(
        "siblings",
        orders[0] == orders[1]
        and all(met.join_as(type(x)) == whole for met in orders)
        and orders[0].write(whole, actor=1).encoded == [bytes(whole)],
        x,
        y,
        z,
    )


# --- native states: histories and the fast loop -------------------------------------------------


def _check_deltas(report: Report, history: histories.History, rng: Random) -> None:
    tag = history.tag
    whole = got = b""
    for state in history.states:
        whole = face.join(tag, whole, state)
    sent = history.deltas + history.deltas[:3]
    rng.shuffle(sent)
    for delta in sent:
        got = face.join(tag, got, delta)
    report.count("deltas", got == whole, got, whole)


def _check_some_deltas(report: Report, history: histories.History, rng: Random) -> None:
    """Any three deltas: their order doesn't matter, repetition doesn't, and no one invents any."""
    join, tag = face.join, history.tag
    d, e, f = (rng.choice(history.deltas) for _ in range(3))
    met = join(tag, join(tag, d, e), f)
    report.count("deltas", met == join(tag, f, join(tag, join(tag, e, d), e)), d, e, f)


def _check_states(report: Report, tag: int, a: bytes, b: bytes, c: bytes) -> None:
    join, order = face.join, face.order
    ab, both = join(tag, a, b), order(tag, a, b)
    report.count("associative", join(tag, ab, c) == join(tag, a, join(tag, b, c)), a, b, c)
    report.count("commutative", ab == join(tag, b, a), a, b)
    report.count("idempotent", join(tag, a, a) == a and join(tag, ab, b) == ab, a, b)
    report.count("bottom", join(tag, b"", a) == a and order(tag, b"", a) & 1, a)
    report.count(
        "order",
        both == (ab == b) | (ab == a) << 1 and order(tag, a, ab) & 1 and (both == 3) == (a == b),
        a,
        b,
    )
    face.verify(tag, ab)
    report.pairs += 1
    report.concurrent += both == 0


def _check_hardened(report: Report, tag: int, state: bytes, rng: Random) -> None:
    cell = face.make_cell(tag, state)
    face.cell_verify(cell)
    at = rng.randrange(len(cell))
    flipped = cell[:at] + bytes((cell[at] ^ 1 << rng.randrange(8),)) + cell[at + 1 :]
    for garbage in (cell[:at], flipped):
        try:
            face.cell_verify(garbage)
        except CorruptCellError:
            report.count("hardened", holds=True)
            continue
        report.count("hardened", face.make_cell(*face.cell_split(garbage)) == garbage, garbage)


def _require_concurrency(report: Report, tag: int) -> None:
    if (
        tag not in histories.CHAINS
        and report.pairs >= _SHARE_MATTERS_FROM
        and report.concurrent_share < CONCURRENT_SHARE_MIN
    ):
        raise LawBroken(
            f"{report.name}: only {report.concurrent_share:.0%} of the pairs are concurrent, so the"
            f" laws were checked where they are easy; {CONCURRENT_SHARE_MIN:.0%} are needed"
        )


def campaign(cls: type[CellLattice], examples: int = 100_000, seed: int | None = None) -> Report:
    """Check `examples` triples of a built-in type against every law, in a plain loop over states.

    Triples come from histories of three actors with removals. Raises LawBroken with the seed that
    replays it, also if fewer than 30 % of the pairs were concurrent where pairs can be.
    """
    import random

    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    rng = random.Random(seed)  # noqa: S311  reproducible, not secret
    report = Report(cls.__name__, seed)
    done = 0
    try:
        while done < examples:
            history = histories.play(cls.tag, rng, rng.randrange(2, 40))
            report.refused += history.refused
            _check_deltas(report, history, rng)
            for _ in range(min(_STATES_PER_HISTORY, examples - done)):
                a, b, c = history.triple(rng)
                _check_states(report, cls.tag, a, b, c)
                _check_hardened(report, cls.tag, c, rng)
                if history.deltas:
                    _check_some_deltas(report, history, rng)
                done += 1
        _require_concurrency(report, cls.tag)
    except AssertionError as error:
        raise LawBroken(f"{error}\nreplay: campaign({cls.__name__}, {examples}, {seed})") from None
    return report


# --- Hypothesis ---------------------------------------------------------------------------------


def check_lattice(
    cls: type[Lattice],
    strategy: st.SearchStrategy[Any] | None = None,
    *,
    max_examples: int | None = None,
) -> Report:
    """Check that `cls` is a lattice: every law of this module, on values drawn by Hypothesis.

    cls: a subclass of `annapy.Lattice`, or a built-in type. strategy: values of `cls`; may be left
    out for built-in types, whose values then come from histories of three actors. max_examples: how
    often each law is checked, by default as the Hypothesis profile has it.

    Returns a Report with the counts. Raises LawBroken (an AssertionError), with the smallest values
    that Hypothesis found, and TypeError for a user type without a strategy.

    >>> from annapy.lattice import GCounter
    >>> check_lattice(GCounter, max_examples=20).examples["associative"] >= 20
    True
    """
    try:
        import hypothesis
        from hypothesis import strategies
    except ImportError as error:
        raise ImportError("annapy.testing needs Hypothesis: pip install annapy[test]") from error
    native = cls if issubclass(cls, CellLattice) else None
    if strategy is not None:
        drawn: st.SearchStrategy[Any] = strategies.tuples(strategy, strategy, strategy)
    elif native is not None:
        drawn = histories.triples(native)
    else:
        raise TypeError(f"check_lattice({cls.__name__}, strategy): say how to make its values")
    bottom = cls() if native is None else native._of(b"")
    report = Report(cls.__name__)
    settings = _settings(max_examples)

    @settings
    @hypothesis.given(three=drawn, rng=strategies.randoms(use_true_random=True))
    def laws(three: tuple[Any, Any, Any], rng: Random) -> None:
        _check_values(report, bottom, *three)
        _check_codec(report, cls, three[0], rng)
        if native is None:
            _check_siblings(report, *three)

    laws()
    if native is not None:

        @settings
        @hypothesis.given(
            history=histories.histories(native), rng=strategies.randoms(use_true_random=True)
        )
        def deltas(history: histories.History, rng: Random) -> None:
            _check_deltas(report, history, rng)

        deltas()
        if strategy is None:
            _require_concurrency(report, native.tag)
    return report


def _settings(max_examples: int | None) -> hypothesis.settings:
    """The active Hypothesis profile, without a deadline or a database of a library's test."""
    from hypothesis import HealthCheck, settings

    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    if max_examples is None:
        return settings(deadline=None, database=None, suppress_health_check=slow)
    return settings(
        max_examples=max_examples, deadline=None, database=None, suppress_health_check=slow
    )
