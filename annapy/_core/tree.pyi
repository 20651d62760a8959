# Nothing for Python: collection.pyi has what tests use.

__all__: list[str] = []
