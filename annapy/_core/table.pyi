"""Nothing that Python sees: table.pxd declares what other extensions call."""
