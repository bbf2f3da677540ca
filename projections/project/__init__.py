"""Projecting: the log's new events into the rows of the read models."""
