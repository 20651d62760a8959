"""A state store for functions."""
