"""Deliveries of the platform: their envelopes, and the values in them. Pure."""
