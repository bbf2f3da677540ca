"""`python -m api` is the command `userlog`."""

from api.cli import main

main()
