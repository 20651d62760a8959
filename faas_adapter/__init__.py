"""Adapters that will hand an annapy store to functions on serverless platforms. Empty today.

The package reserves the import name and holds no code yet: `from faas_adapter import stateful`
raises `ImportError`. Until the adapters exist, open a store in the handler's module and use it
there; `annapy.demo.functions` shows two composed functions that take `state` this way.
"""

__all__: list[str] = []
