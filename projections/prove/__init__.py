"""Proving: rows compared with what the log says."""
