"""Nothing that Python sees: hlc.pxd declares what other extensions call."""
