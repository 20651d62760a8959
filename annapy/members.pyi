"""Set members and map fields as bytes, for the extension modules; for Python: values.member."""

__all__: list[str] = []
