"""The core: cells, joins, memory, shards. Private; annapy/__init__ is the public face."""
from __future__ import annotations

__all__: list[str] = []
