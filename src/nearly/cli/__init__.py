"""The command line. Only click is imported to show help; torch comes with the first command that needs it."""

from nearly.cli.commands import main

__all__ = ["main"]
