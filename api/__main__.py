"""`python -m api` is the command `userlog`."""

from api.cli.main import main

main()
