"""Every truncation and every single-bit flip of a corpus of cells of every type.

What is not refused must be canonical: it splits and re-encodes to the same bytes, is its own join
with itself, equals itself in the order, and the class that belongs to its tag can read it.
"""
from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from annapy._core import face
from annapy.errors import CorruptCellError
from annapy.lattice import from_state
from annapy.testing.histories import play

KINDS = [kind for kind in face.TAGS if kind != "none"]
CELL_BYTES_MAX = 600


def corpus(kind: str) -> list[bytes]:
    """Cells as histories leave them: bare, and with a generation, an expiry, fields."""
    rng, tag = random.Random(kind), face.TAGS[kind]
    found: list[bytes] = []
    for n in range(40):
        for state in play(tag, rng, 4 + n % 12).states:
            bare = face.make_cell(tag, state)
            if len(bare) <= CELL_BYTES_MAX and bare not in found:
                found.append(bare)
    label = bytes((1, 8, 0)) + bytes(8) + bytes((2, 21, 0)) + bytes(19) + b"\1x"
    full = face.make_cell(tag, face.cell_split(found[-1])[1], (1, 2, 3), 9, (4, 5, 6), label)
    return [*sorted(found, key=len)[:: max(1, len(found) // 20)], full]


def broken(cell: bytes) -> Iterator[bytes]:
    for at in range(len(cell)):
        yield cell[:at]
        for bit in range(8):
            yield cell[:at] + bytes((cell[at] ^ 1 << bit,)) + cell[at + 1 :]
    yield cell + b"\0"
    yield cell + cell


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_and_every_flip(kind: str) -> None:
    refused = accepted = 0
    for cell in corpus(kind):
        for garbage in broken(cell):
            try:
                face.cell_verify(garbage)
            except CorruptCellError:
                refused += 1
                continue
            accepted += 1
            assert face.make_cell(*face.cell_split(garbage)) == garbage
            assert face.cell_join(garbage, garbage) == garbage
            assert face.cell_order(garbage, garbage) == 3
            met = face.cell_join(garbage, cell)
            face.cell_verify(met)
            assert met == face.cell_join(cell, garbage)
            assert face.cell_resolve(met) == met
    print(f"{kind}: {refused:,} refused, {accepted:,} canonical")
    assert refused > 100 or kind == "flag"


def read(cell: bytes) -> None:
    tag, state, *_ = face.cell_split(cell)
    if tag in face.KINDS and tag:
        repr(from_state(tag, state).value)
        repr(from_state(tag, state))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_accepted_can_be_read(kind: str) -> None:
    """The value inside a state may be no canonical value: reading then refuses it by name.

    ValueError: a value's bytes; TypeError: a user's type that this process does not define;
    OverflowError: contributions that add up past their dtype.
    """
    rng = random.Random(kind)
    for cell in corpus(kind):
        for garbage in rng.sample(list(broken(cell)), 60):
            try:
                face.cell_verify(garbage)
                read(garbage)
            except (ValueError, TypeError, OverflowError) as error:
                text = str(error)
                if isinstance(error, TypeError):
                    text = text if "import the module" in text else ""
            else:
                text = "read"
            assert text
