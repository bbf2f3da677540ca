"""Verify: proves that the log is whole, and names the first place where it is not."""
