"""f(g(x)): two functions of a prediction service. All that they remember is in `state`.

    serve(event, state) = decide(describe(event, state), state)

`describe` (g) turns an image into features and keeps statistics of the stream; `decide` (f)
predicts the digit with a softmax classifier and, when the event says what the digit was, learns.
Any number of processes could run either: every write is an operation of a lattice, so none of
them overwrites another's.

    key                    kind       written by   what it is
    events                 counter    f            training events learned from: the stream's place
    requests               counter    g            events without a label
    images                 hll        g            distinct images seen, estimated
    scale                  maxarray   g            greatest value of each feature so far
    class/D/seen           counter    g            training events that show digit D
    class/D/images         orset      g            the images of D, by number
    class/D/brightest      maxarray   g            greatest value of each pixel over D's images
    class/D/wrong          orset      f            images of D that were last predicted wrongly
    weights                sumarray   f            the classifier: the sum of all gradient steps
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from annapy import Store
    from annapy.demo.data import Event

__all__ = ["CLASSES", "Answer", "Described", "decide", "describe", "serve"]

CLASSES = 10
SIDE = 8
PIXEL_MAX = 16
# Pixels, products of neighbours (right, below, both diagonals), and one constant.
FEATURES = SIDE * SIDE + 2 * SIDE * (SIDE - 1) + 2 * (SIDE - 1) ** 2 + 1
RATE = 0.1
RATE_HALVED_AFTER = 2000  # events

Array = np.ndarray[Any, np.dtype[np.float32]]


class Described(NamedTuple):
    """What g hands to f: the event with its features, scaled to at most 1."""

    event: Event
    features: Array


class Answer(NamedTuple):
    """What f returns: the digit it read, and how sure it is (0 to 1)."""

    digit: int
    probability: float


def serve(event: Event, state: Store) -> Answer:
    """Answer one event: the composition of the two functions."""
    return decide(describe(event, state), state)


def describe(event: Event, state: Store) -> Described:
    """g: the features of an image; remembers what the stream has shown so far."""
    raw = features(event["image"])
    scale = state.maxarray("scale", (FEATURES,), "float32")
    label = event["label"]
    if label is None:
        state.counter("requests").add(1)
    else:
        scale.observe(raw)
        pixels = np.frombuffer(event["image"], dtype=np.uint8)
        state.hll("images").add(event["image"])
        state.counter(f"class/{label}/seen").add(1)
        state.orset(f"class/{label}/images").add(event["id"])
        state.maxarray(f"class/{label}/brightest", (SIDE * SIDE,), "uint8").observe(pixels)
    return Described(event, raw / np.maximum(scale.value, 1 / PIXEL_MAX))


def decide(described: Described, state: Store) -> Answer:
    """f: the likeliest digit; where the event is labelled, one step down the gradient as well.

    The step is added to a SumArray: steps that several processes take at once are all kept, and
    the weights that any of them reads next are the sum of what has been added.
    """
    event, x = described
    weights = state.sumarray("weights", (FEATURES, CLASSES), "float32")
    scores = x @ weights.value
    likelihood = np.exp(scores - scores.max())
    likelihood /= likelihood.sum()
    digit = int(likelihood.argmax())
    answer = Answer(digit, float(likelihood[digit]))
    label = event["label"]
    if label is not None:
        events = state.counter("events")
        rate = RATE / (1 + events.value / RATE_HALVED_AFTER)
        likelihood[label] -= 1
        weights.add(np.outer(x, -rate * likelihood))
        wrong = state.orset(f"class/{label}/wrong")
        if digit == label:
            wrong.discard(event["id"])
        else:
            wrong.add(event["id"])
        events.add(1)
    return answer


def features(image: bytes) -> Array:
    """Pixels and products of neighbouring pixels: strokes, and which way they run."""
    x = np.frombuffer(image, dtype=np.uint8).reshape(SIDE, SIDE) / np.float32(PIXEL_MAX)
    return np.concatenate(
        [
            x.ravel(),
            (x[:, 1:] * x[:, :-1]).ravel(),
            (x[1:] * x[:-1]).ravel(),
            (x[1:, 1:] * x[:-1, :-1]).ravel(),
            (x[1:, :-1] * x[:-1, 1:]).ravel(),
            np.ones(1, dtype=np.float32),
        ]
    )
