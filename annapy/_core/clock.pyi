# No Python names: other extensions cimport it; clock.pxd says what it gives them.
