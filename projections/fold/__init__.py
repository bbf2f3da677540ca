"""The fold: from events to a user's state and history. No I/O."""
