"""Nothing that Python sees: codec.pxd declares what other extensions call."""
