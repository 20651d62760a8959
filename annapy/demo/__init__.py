"""The demonstration: a small prediction service whose state lives in a store.

    data.py        the images: what is in the stream, what is held out
    functions.py   f(g(x)): the two functions, ordinary Python that takes `state`
    run.py         replays the stream against a store and measures
    make_data.py   makes the package data from the published file

`annapy.cli.demo` shows it. Nothing else imports this package; it needs numpy.
"""
from __future__ import annotations

__all__: list[str] = []
