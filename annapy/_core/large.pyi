"""Nothing that Python sees: large.pxd declares what other extensions call."""
