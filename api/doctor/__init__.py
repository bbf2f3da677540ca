"""`userlog doctor`: what is wrong here, in one page, and what to do about it."""
