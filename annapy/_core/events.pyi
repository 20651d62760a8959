"""Nothing that Python sees: events.pxd declares what other extensions call."""
