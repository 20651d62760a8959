"""Mapped memory has no Python face."""
