"""Set members and map fields as bytes, for the extension modules; Python's face is values.member."""

__all__: list[str] = []
