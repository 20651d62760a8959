# cython: language_level=3
"""ORMap registers itself; the layout is in joins_ormap.pyx."""
