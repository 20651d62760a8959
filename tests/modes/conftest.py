"""Every test here runs in every mode: what a store is must not depend on where it lives.

Owns    the modes: mem (a private store in memory) and dir (a private store over a directory).
"""
from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import annapy

MODES = ["mem", "dir"] if find_spec("annapy.persist") else ["mem"]


class Mode:
    """How to open a store in one mode; `again` closes and opens it where that keeps the data."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.opened: list[annapy.Store] = []

    @property
    def durable(self) -> bool:
        return self.name == "dir"

    def open(self, **options: Any) -> annapy.Store:
        options.setdefault("capacity", "32MiB")
        store = annapy.open(self.path if self.durable else "mem://", **options)
        self.opened.append(store)
        return store

    def again(self, store: annapy.Store) -> annapy.Store:
        if not self.durable:
            return store
        store.close()
        return self.open()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mode]:
    mode = Mode(request.param, tmp_path / "store")
    yield mode
    for store in mode.opened:
        store.close()


@pytest.fixture
def s(mode: Mode) -> annapy.Store:
    return mode.open()
