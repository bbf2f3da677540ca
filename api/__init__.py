"""The outside: webhook in, answers out, and the command line. The composition root.

Only `config` reads the environment; `webhook.verify` and `webhook.decode` are pure; every
other module turns something of the outside into a call of `eventstore` or `projections` and back.
"""
