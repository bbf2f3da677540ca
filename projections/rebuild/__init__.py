"""Rebuilding: the read models made anew beside those that answer, then flipped to."""
