"""Errors: their bases, pickling and attributes. Limits: equal to those that the core has."""
from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from annapy import errors, limits
from annapy.errors import AnnapyError, shorten_key

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = [name for name in errors.__all__ if name != "shorten_key"]
BASES = {
    "LatticeTypeError": TypeError,
    "SerializationError": TypeError,
    "CorruptCellError": ValueError,
    "FormatError": ValueError,
    "InvalidToken": ValueError,
    "CapacityError": MemoryError,
    "Backpressure": TimeoutError,
    "AckTimeout": TimeoutError,
    "NodeUnavailable": ConnectionError,
    "OutcomeUnknown": ConnectionError,
    "AuthenticationError": PermissionError,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_error_pickles_with_its_attributes(name: str) -> None:
    cls = getattr(errors, name)
    error = cls("what went wrong", key="k")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.args, back.key) == (
        cls, "what went wrong", ("what went wrong",), "k",
    )
    assert isinstance(error, AnnapyError)
    assert isinstance(error, BASES.get(name, Exception))
    assert str(cls()) == ""
    assert cls("x").key is None


@pytest.mark.parametrize("name", NAMES)
def test_the_drawn_tree_is_the_tree(name: str) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if f" {name}" in line)
    drawn = re.search(rf"{name} \((\w+)\)", line)
    builtin = BASES.get(name, Exception)
    assert (drawn[1] if drawn else "Exception") == builtin.__name__


def test_attributes_are_those_that_the_class_declares() -> None:
    error = errors.LatticeTypeError("m", key="k", expected="counter", found="orset")
    back = pickle.loads(pickle.dumps(error))
    assert (back.expected, back.found) == ("counter", "orset")
    for wrong in ("colour", "_state", "__class__"):
        with pytest.raises(TypeError, match="no attribute"):
            errors.StoreClosed("m", **{wrong: 1})


def test_keys_are_shortened() -> None:
    assert shorten_key("user:42") == "'user:42'"
    assert shorten_key(b"\xff") == "b'\\xff'"
    long = shorten_key("a" * 4000 + "z")
    assert len(long) < 100
    assert "4001 characters" in long
    assert long.count("z") == 1
    assert "4000 bytes" in shorten_key(b"a" * 4000)


def constant(path: str, name: str) -> int:
    text = (ROOT / "annapy" / path).read_text(encoding="utf-8")
    found = re.search(rf"^\s+{name} = (0x[0-9A-Fa-f]+|\d+(?: << \d+)?)", text, re.MULTILINE)
    assert found, f"{name} is not in {path}"
    left, _, shift = found[1].partition(" << ")
    return int(left, 0) << int(shift or 0)


@pytest.mark.skipif(not (ROOT / "annapy" / "_core").is_dir(), reason="no source tree here")
@pytest.mark.parametrize(
    ("limit", "path", "name"),
    [
        ("CELL_SIZE_MAX_BYTES", "_core/cell.pxd", "CELL_SIZE_MAX"),
        ("NESTING_MAX", "_core/cell.pxd", "NESTING_MAX"),
        ("USER_SIBLINGS_MAX", "_core/joins_user.pyx", "SIBLINGS_MAX"),
        ("USER_STATE_MAX_BYTES", "_core/joins_user.pyx", "STATE_MAX"),
        ("USER_NAME_SIZE_MAX_BYTES", "_core/joins_user.pyx", "NAME_MAX"),
        ("ARRAY_DIMENSIONS_MAX", "_core/joins_array.pxd", "ARRAY_NDIM_MAX"),
        ("VALUE_DEPTH_MAX", "values.pxd", "DEPTH_MAX"),
    ],
)
def test_limits_are_those_of_the_core(limit: str, path: str, name: str) -> None:
    assert getattr(limits, limit) == constant(path, name)


def test_every_limit_is_public() -> None:
    found = {name for name in vars(limits) if name.isupper()}
    assert found == set(limits.__all__)
