"""What the tests of the codecs draw from: values, members, and numbers close to one another."""
from __future__ import annotations

import datetime as dt
import zoneinfo
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

__all__ = ["flipped", "members", "numbers", "scalars", "values"]

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]


def has_zones() -> bool:
    try:
        zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        return False
    return True


offsets = st.integers(-86_399_999_999, 86_399_999_999).map(lambda us: dt.timedelta(microseconds=us))
zones: Any = st.one_of(
    st.none(),
    st.just(dt.timezone.utc),
    offsets.map(dt.timezone),
    st.builds(dt.timezone, offsets, st.text(max_size=5)),
    *([st.sampled_from(ZONES).map(zoneinfo.ZoneInfo)] if has_zones() else []),
)
texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
edges = st.sampled_from([n + d for k in (7, 8, 15, 16, 31, 32, 63, 64, 70, 71, 127)
                         for n in (1 << k, -(1 << k)) for d in (-1, 0, 1)])
decimals = st.one_of(
    st.decimals(allow_nan=False),
    st.builds(lambda n, e: Decimal((0, (n,), e)), st.integers(0, 9), st.integers(-60, 60)),
    st.integers(-(10**40), 10**40).map(lambda n: Decimal(n).scaleb(-20)),
)
numbers: Any = st.one_of(
    st.booleans(), st.integers(-300, 300), st.integers(), edges, st.integers(-(1 << 300), 1 << 300),
    st.floats(allow_nan=False), st.floats(-4, 4), edges.map(float), edges.map(lambda n: n / 256),
    decimals,
    st.floats(allow_nan=False).map(Decimal), st.floats(0, 2).map(lambda x: Decimal(x) + 1),
)
folds = st.integers(0, 1)
datetimes = st.builds(lambda x, f: x.replace(fold=f), st.datetimes(timezones=zones), folds)
times = st.builds(lambda x, tz, f: x.replace(tzinfo=tz, fold=f), st.times(), zones, folds)
scalars: Any = st.one_of(
    st.none(), numbers, st.floats(), st.decimals(), st.complex_numbers(), texts,
    st.binary(max_size=12), st.dates(), datetimes, times, st.timedeltas(), st.uuids(),
)
members: Any = st.recursive(
    scalars.filter(lambda x: not (isinstance(x, Decimal) and x.is_snan())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=6,
)
values: Any = st.recursive(
    st.one_of(scalars, st.binary(max_size=12).map(bytearray)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(members, inner, max_size=4),
        st.sets(members, max_size=4),
        st.frozensets(members, max_size=4),
    ),
    max_leaves=8,
)


@st.composite
def flipped(draw: Any, data: bytes) -> bytes:
    """The bytes with one bit flipped, cut short, or something appended."""
    kind = draw(st.integers(0, 3))
    if kind == 0 or not data:
        return data + draw(st.binary(min_size=1, max_size=3))
    at = draw(st.integers(0, len(data) - 1))
    if kind == 1:
        return data[:at]
    return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
