"""Nothing that Python sees: records.pxd declares what other extensions call."""
