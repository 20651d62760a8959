"""The demonstration: its data, its split, its arithmetic, and that a second run continues."""
from __future__ import annotations

import itertools
import zlib
from pathlib import Path

import numpy as np
import pytest

import annapy
from annapy.demo.data import load, stream
from annapy.demo.functions import CLASSES, FEATURES, describe, features, serve
from annapy.demo.make_data import make
from annapy.demo.run import accuracy_of, run


def test_data_is_the_published_set() -> None:
    digits = load()
    events = digits.training + digits.held_out
    assert len(events) == 1797
    assert sorted(event["id"] for event in events) == list(range(1797))
    assert all(len(e["image"]) == 64 and max(e["image"]) <= 16 for e in events)
    labels = [event["label"] for event in digits.training] + digits.held_out_labels
    # The published counts of the test part, digit by digit.
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(labels, minlength=10).tolist() == counts


def test_held_out_images_are_fixed_and_never_in_the_stream() -> None:
    digits = load()
    assert len(digits.held_out) == 424
    held_out = {event["image"] for event in digits.held_out}
    assert all(event["label"] is None for event in digits.held_out)
    assert all(zlib.crc32(image) % 4 == 0 for image in held_out)
    assert not held_out & {event["image"] for event in digits.training}


def test_stream_is_the_same_wherever_it_starts() -> None:
    training = load().training
    size = len(training)
    whole = [event["id"] for event in stream(training, 0, 3 * size)]
    pieces = itertools.chain(
        stream(training, 0, 5), stream(training, 5, size), stream(training, size + 5, 2 * size - 5)
    )
    assert [event["id"] for event in pieces] == whole
    passes = [whole[at : at + size] for at in (0, size, 2 * size)]
    assert len({tuple(once) for once in passes}) == 3
    assert all(sorted(once) == sorted(event["id"] for event in training) for once in passes)
    assert list(stream(training, 7, 0)) == []


def test_make_data_writes_what_is_shipped(tmp_path: Path) -> None:
    digits = load()
    images = {event["id"]: event["image"] for event in digits.training + digits.held_out}
    labels = {event["id"]: event["label"] for event in digits.training}
    labels |= {e["id"]: x for e, x in zip(digits.held_out, digits.held_out_labels, strict=True)}
    rows = [",".join(map(str, [*images[n], labels[n]])) for n in range(len(images))]
    (tmp_path / "optdigits.tes").write_text("\n".join(rows) + "\n")
    make(tmp_path / "optdigits.tes", tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as made:
        assert [row.tobytes() for row in made["images"]] == [images[n] for n in range(1797)]
        assert made["labels"].tolist() == [labels[n] for n in range(1797)]
    (tmp_path / "short").write_text("\n".join(rows[:-1]))
    with pytest.raises(ValueError, match="1797 lines"):
        make(tmp_path / "short", tmp_path / "none.npz")


def test_features() -> None:
    x = features(bytes([16] * 64))
    assert x.shape == (FEATURES,)
    assert x.dtype == np.float32
    assert x.min() == x.max() == 1
    assert features(bytes(64)).sum() == 1


def test_a_held_out_event_teaches_nothing() -> None:
    with annapy.open() as store:
        serve(load().held_out[0], store)
        assert list(store) == ["requests"]


def test_learning_and_continuing(tmp_path: Path) -> None:
    seen = []
    with annapy.open(tmp_path) as store:
        first = run(store, 1.5, seen.append)
        weights = np.array(store["weights"])
    assert first.events == first.events_total == round(1.5 * first.training_images)
    assert first.accuracy_start < 0.2
    assert first.accuracy >= 0.93
    assert first.distinct_images == first.training_images
    assert abs(first.distinct_estimate - first.distinct_images) < 0.1 * first.distinct_images
    assert len(first.read_ns) == len(first.write_ns) == len(first.compose_ns) == first.events
    assert (seen[-1].done, seen[-1].total) == (first.events, first.events)
    assert {"counter", "orset", "hll", "maxarray", "sumarray"} <= set(first.kinds)

    with annapy.open(tmp_path) as store:
        assert np.array_equal(store["weights"], weights)
        assert accuracy_of(store, load()) == first.accuracy
        second = run(store, 0.5)
        assert second.accuracy_start == first.accuracy
        assert second.events_total == first.events + second.events == store["events"]
        assert sum(store[f"class/{digit}/seen"] for digit in range(CLASSES)) == store["events"]


def test_g_keeps_what_the_stream_showed() -> None:
    training = load().training[:50]
    with annapy.open() as store:
        for event in training:
            describe(event, store)
        pixels = {d: [e["image"] for e in training if e["label"] == d] for d in range(CLASSES)}
        for digit, images in pixels.items():
            assert store.get(f"class/{digit}/seen", 0) == len(images)
            if images:
                greatest = np.max([np.frombuffer(i, np.uint8) for i in images], axis=0)
                assert np.array_equal(store[f"class/{digit}/brightest"], greatest)
        expected = np.max([features(event["image"]) for event in training], axis=0)
        assert np.array_equal(store["scale"], expected)
