# No Python names: other extensions cimport it; cell.pxd says what it gives them.
