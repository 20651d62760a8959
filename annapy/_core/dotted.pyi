# Nothing for Python: dotted types share C functions.
