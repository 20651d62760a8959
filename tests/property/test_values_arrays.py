"""Arrays as values: dtypes, layouts, DLPack, scalars, views and what is refused."""
from __future__ import annotations

import array
import ctypes
import gc
import pickle
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from annapy import _views, values
from annapy.errors import CorruptCellError, SerializationError

np = pytest.importorskip("numpy")

DTYPES = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "?"]
shapes = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
dtypes = st.tuples(st.sampled_from("<>"), st.sampled_from(DTYPES)).map("".join)
arrays = dtypes.flatmap(lambda dtype: arrays_of.arrays(np.dtype(dtype.replace("<?", "?")), shapes))


class OnlyDLPack:
    """A tensor of another library: no buffer protocol."""

    def __init__(self, inner: Any, device: tuple[int, int] = (1, 0)) -> None:
        self.inner, self.device = inner, device

    def __dlpack__(self, **_: Any) -> Any:
        return self.inner.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def same(a: Any, b: Any) -> bool:
    return (
        type(b) is np.ndarray and b.dtype == a.dtype.newbyteorder("=") and b.shape == a.shape
        and b.tobytes() == np.ascontiguousarray(a, b.dtype).tobytes()
    )


@given(arrays, st.integers(0, 3))
def test_roundtrip_of_any_layout(a: Any, layout: int) -> None:
    a = [a, a.T, a[::-1] if a.ndim else a, a[..., ::2] if a.ndim else a][layout]
    data = values.encode(a)
    back = values.decode(data)
    assert same(a, back)
    assert back.flags.writeable
    assert back.flags.c_contiguous
    assert values.encode(back) == data
    assert same(a, values.decode(values.encode([a]))[0])
    view = _views.unpack(data[4:])
    assert same(a, view)
    assert not view.flags.writeable


@given(arrays.filter(lambda a: a.dtype.isnative), st.integers(0, 2))
def test_dlpack_equals_buffer(a: Any, layout: int) -> None:
    a = [a, a.T, a[..., ::-1] if a.ndim else a][layout]
    assert values.encode(OnlyDLPack(a)) == values.encode(a)


@given(arrays, st.data())
def test_broken_bytes(a: Any, data: Any) -> None:
    encoded = values.encode(a)
    at = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(CorruptCellError):
        values.decode(encoded[:at])
    broken = bytearray(encoded)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        back = values.decode(bytes(broken))
    except (CorruptCellError, SerializationError):
        return
    assert values.encode(back) == bytes(broken)


@pytest.mark.parametrize("name", DTYPES)
def test_scalars_keep_their_type(name: str) -> None:
    x = np.ones(1, name)[0]
    back = values.decode(values.encode(x))
    assert type(back) is type(x)
    assert back == x
    assert values.decode(values.encode(np.str_("a"))) == "a"


def test_other_buffers() -> None:
    for x, expected in [
        (array.array("h", [1, -2]), np.int16([1, -2])),
        (memoryview(b"ab"), np.uint8([97, 98])),
        (memoryview(bytes(12)).cast("i", (3, 1)), np.zeros((3, 1), "i4")),
        ((ctypes.c_double * 2)(1, 2), np.float64([1, 2])),
        (np.zeros((2, 2)).view(np.matrix), np.zeros((2, 2))),
    ]:
        assert same(expected, values.decode(values.encode(x)))


@pytest.mark.parametrize(("x", "match"), [
    (np.array([object()]), "dtype object"),
    (np.array(["a"]), "dtype <U1"),
    (np.zeros(2, [("a", "i4")]), r"dtype \[\('a'"),
    (np.array(["2020-01-01"], "M8[D]"), "view"),
    (np.longdouble(1), "dtype"),
    (np.ma.array([1, 2], mask=[0, 1]), "masked"),
    (OnlyDLPack(np.zeros(2), (2, 0)), r"device \(2, 0\)"),
    (OnlyDLPack(object()), "__dlpack__ failed"),
])
def test_refused(x: Any, match: str) -> None:
    with pytest.raises(SerializationError, match=match):
        values.encode(x)
    with pytest.raises(SerializationError, match=match):
        values.encode({"inside": [x]})


def test_pickle_takes_what_is_refused() -> None:
    for x in (np.array(["a"]), np.zeros(2, [("a", "i4")]), np.datetime64(1, "s")):
        back = values.decode(values.encode(x, allow_pickle=True), allow_pickle=True)
        assert (back == x).all()
        assert type(back) is type(x)


def test_bools_are_zero_or_one() -> None:
    odd = np.uint8([0, 1, 2]).view("?")
    assert values.encode(odd)[-3:] == b"\0\1\1"
    with pytest.raises(CorruptCellError, match="bool"):
        values.decode(values.encode(odd)[:-1] + b"\2")


def test_views_keep_their_owner() -> None:
    class Owner(bytearray):
        pass

    packed = _views.pack(np.arange(6.0).reshape(2, 3))
    owner = Owner(packed)
    address = ctypes.addressof(ctypes.c_char.from_buffer(owner))
    gone = weakref.ref(owner)
    view = _views.view(address, len(packed), owner)
    part = view[1]
    del owner, view
    gc.collect()
    assert gone() is not None
    assert part.tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match="read-only"):
        part[0] = 1
    del part
    gc.collect()
    assert gone() is None
    with pytest.raises(CorruptCellError):
        _views.unpack(packed + b"\0")


def bfloat16(numbers: list[int], shape: tuple[int, ...]) -> bytes:
    head = bytes([4, 16, 1, 0, len(shape), 0, 0, 0])
    head += b"".join(n.to_bytes(8, "little") for n in shape)
    return b"\x30\0\0\0" + head + b"".join(n.to_bytes(2, "little") for n in numbers)


def test_a_dtype_that_numpy_lacks() -> None:
    data = bfloat16([0x3F80, 0x4000], (2, 1))
    t = values.decode(data)
    assert repr(t) == "Tensor(dtype='bfloat16', shape=(2, 1))"
    assert t.nbytes == 4
    assert values.encode(t) == data
    assert pickle.loads(pickle.dumps(t)) == t
    assert t.__dlpack_device__() == (1, 0)
    capsule = t.__dlpack__()
    gone = weakref.ref(t) if hasattr(t, "__weakref__") else None
    del t, capsule
    gc.collect()
    assert gone is None or gone() is None
    over = _views.unpack(data[4:])
    assert over == values.decode(data)
    assert over.tobytes() == data[-4:]
    with pytest.raises(BufferError):
        over.__dlpack__(stream=1)
    with pytest.raises(ValueError, match="other than"):
        _views.rebuild_tensor("bfloat16", (5,), b"1234")


def test_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.arange(4).astype(ml_dtypes.bfloat16).reshape(2, 2).T
    t = values.decode(values.encode(x))
    assert (np.asarray(t) == x).all()
    assert t.dtype == "bfloat16"
