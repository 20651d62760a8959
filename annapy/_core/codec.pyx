"""The status codes as Python sees them; the rest of the codec is inline in codec.pxd."""
