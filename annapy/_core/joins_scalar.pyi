# No Python names: importing it registers the scalar lattices.
