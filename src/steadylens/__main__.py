"""`python -m steadylens` is the command `steadylens`."""

from steadylens.cli.main import main

if __name__ == "__main__":
    main()
