"""Nothing that Python sees: shard.pxd declares what other extensions call."""
