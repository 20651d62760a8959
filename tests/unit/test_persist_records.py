"""The byte layouts of the disk tier: folding, records, manifests, meta rows."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy.errors import CorruptCellError
from annapy.persist import records
from annapy.persist.recover import Identity, State

keys = st.one_of(
    st.binary(min_size=4, max_size=40),
    st.builds(lambda head, tail: b"\0\0\0\1" + head * 470 + tail,
              st.sampled_from([b"a", b"\xff", b"\0"]), st.binary(max_size=30)),
)


@given(keys)
def test_a_folded_key_fits_lmdb_and_never_looks_like_a_plain_one(key):
    folded = records.fold(key)
    assert len(folded) <= records.FOLDED_SIZE
    assert len(records.chunk_key(folded, 1)) <= 511
    assert len(records.due_key(1, folded)) <= 511
    assert (folded == key) == (len(key) <= records.KEY_MAX)
    assert (len(folded) == records.FOLDED_SIZE) == (folded != key)
    assert folded[:records.PREFIX_SIZE] == key[:records.PREFIX_SIZE]


@given(keys, st.binary(min_size=records.RECORD_SIZE_MIN, max_size=300))
def test_a_record_comes_back_with_its_key(key, record):
    row = records.fold(key)
    value = records.encode_record(key, record)
    assert records.whole_key(row, value) == key
    assert records.record_body(row, value) == record
    announced = records.record_body(row, records.encode_chunked(key, 12345))
    assert len(announced) == records.CHUNKED_SIZE < records.RECORD_SIZE_MIN
    assert records.chunked_size(announced) == 12345


def test_a_folded_row_that_ends_before_its_key_is_refused():
    row = records.fold(b"\0\0\0\1" + b"k" * 600)
    too_short = records._u16.pack(records.KEY_MAX) + b"x" * 700
    for value in (b"", b"\1", b"\5\0abc", b"\xff\xff" + b"x" * 700, too_short):
        with pytest.raises(CorruptCellError):
            records.whole_key(row, value)


@given(
    st.binary(max_size=64),
    st.lists(st.tuples(st.integers(1, 1 << 31), st.integers(1, 1 << 20)), max_size=20),
)
def test_a_manifest_comes_back_and_any_flip_in_it_is_noticed(head, chunks):
    size = len(head) + sum(length for _, length in chunks)
    raw = records.Manifest(size, 7, head, chunks).encode()
    again = records.Manifest.decode(raw)
    assert (again.size, again.next_id, again.head, again.chunks) == (size, 7, head, chunks)
    for at in range(0, len(raw), max(1, len(raw) // 16)):
        broken = bytearray(raw)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises(CorruptCellError):
            records.Manifest.decode(bytes(broken))
        with pytest.raises(CorruptCellError):
            records.Manifest.decode(raw[:at])


def test_a_manifest_that_does_not_add_up_is_refused_though_its_checksum_is_right():
    raw = records.Manifest(100, 2, b"abc", [(1, 50)]).encode()
    with pytest.raises(CorruptCellError, match="add up"):
        records.Manifest.decode(raw)


def test_a_meta_row_belongs_to_its_name():
    sealed = records.seal(b"state", b"row")
    assert records.unseal(b"state", sealed, "it") == b"row"
    with pytest.raises(CorruptCellError, match="it is damaged"):
        records.unseal(b"identity", sealed, "it")


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=8))
def test_identity_and_state_come_back(numbers):
    one = Identity(5, (1 << 44) - 1, 9, origin=1, device=2, inode=3, token=b"t" * 16,
                   boot="b" * 36, previous=numbers)
    two = Identity.decode(one.encode())
    assert all(getattr(one, name) == getattr(two, name) for name in Identity.__slots__)
    assert one.actor == ((1 << 44) - 1) << 20 | 9
    state = State.decode(State(1, 2, 3, 4, numbers).encode())
    assert (state.live, state.hlc, state.hlc_bound, state.commits) == (1, 2, 3, 4)
    assert state.applied == numbers
    for kind in (Identity, State):
        with pytest.raises(CorruptCellError):
            kind.decode(b"short")
