"""Nothing that Python sees: ledger.pxd declares what other extensions call."""
