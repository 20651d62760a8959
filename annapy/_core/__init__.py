"""The core: cells, joins, memory, shards. Private; annapy/__init__ is the public face."""
