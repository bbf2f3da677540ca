"""Webhooks: a delivery verified, decoded and taken into the log."""
