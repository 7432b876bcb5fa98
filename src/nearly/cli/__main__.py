"""`python -m nearly.cli` is the same as `nearly`."""

from nearly.cli import main

if __name__ == "__main__":
    main(prog_name="nearly")
