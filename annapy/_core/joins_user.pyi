# No Python names: importing it registers the lattice of user-defined states.
