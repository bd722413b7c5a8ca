"""`python -m dynflow`: the command line."""

from dynflow.cli import main

if __name__ == "__main__":
    main()
