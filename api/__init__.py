"""The outside: webhook in, answers out, and the command line. The composition root.

Only `settings` reads the environment; `signatures` and `payloads` are pure; every other module
turns something of the outside into a call of `eventstore` or `projections` and back.
"""
