"""Read models: what the log holds about each user, kept ready for questions.

Everything here can be thrown away and made again from the log. `state` and `history` are pure:
what they make depends on the set of events alone, not on the order of arrival, the number of
deliveries, the batches or the clock. The projector writes a batch of rows and its checkpoint in
one transaction, so a read model is always exactly the log up to its checkpoint.
"""
