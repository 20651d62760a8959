"""The digits: which images make up the event stream, and which are held out for ever.

Owns the split and the order of the stream.

Invariants
    an image is held out iff CRC32(its 64 bytes) % 4 == 0: its content decides, not its position,
    so no order, subset or re-encoding of the file moves an image across the line
    event n of the stream is the same event in every run: pass n // len(stream), shuffled by a
    generator that is seeded with the number of the pass
"""
from __future__ import annotations

import io
import zlib
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Digits", "Event", "load", "stream"]

HELD_OUT_MODULUS = 4


class Event(TypedDict):
    """What arrives: an image, and for training events the digit that it shows."""

    id: int
    image: bytes
    label: int | None


class Digits(NamedTuple):
    """Training events in the file's order, and the held-out ones with their labels beside them."""

    training: list[Event]
    held_out: list[Event]
    held_out_labels: list[int]


def load() -> Digits:
    """Read the package data: 1,797 images of 64 bytes (0 to 16) and their labels."""
    packed = resources.files("annapy.demo").joinpath("digits/digits.npz").read_bytes()
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    training: list[Event] = []
    held_out: list[Event] = []
    held_out_labels: list[int] = []
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        image = pixels.tobytes()
        if zlib.crc32(image) % HELD_OUT_MODULUS == 0:
            held_out.append({"id": number, "image": image, "label": None})
            held_out_labels.append(int(label))
        else:
            training.append({"id": number, "image": image, "label": int(label)})
    return Digits(training, held_out, held_out_labels)


def stream(training: list[Event], first: int, count: int) -> Iterator[Event]:
    """Events `first` to `first + count - 1` of the endless stream over `training`."""
    size = len(training)
    order: list[int] = []
    for number in range(first, first + count):
        if not order or number % size == 0:
            order = np.random.default_rng(number // size).permutation(size).tolist()
        yield training[order[number % size]]
