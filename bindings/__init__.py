"""Declarations of foreign C interfaces (`.pxd` files). Nothing here runs or imports annapy.

In the source tree this folder is the package `bindings`, which is what `cimport bindings.linux`
finds while the extensions are built. Installed, it is `annapy.bindings`: a wheel that put a
top-level package of that name into site-packages would collide with half the world.
"""

__all__: list[str] = []
