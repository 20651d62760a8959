"""Dates, clocks and time zones as bytes, for the extension modules."""

__all__: list[str] = []
