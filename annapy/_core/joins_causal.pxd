# cython: language_level=3
"""MVRegister, Causal and MultiCausal register themselves; the layout is in joins_causal.pyx."""
