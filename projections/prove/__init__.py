"""Proving: rows compared with the log."""
