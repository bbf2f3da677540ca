"""Sealing: payloads compressed and encrypted with a key per user, and these keys."""
