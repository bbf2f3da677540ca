"""Questions, answered from the read models or, about the past, from the log."""
