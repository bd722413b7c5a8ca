"""The command line: `dynflow VERB …`, one file per verb. Nothing heavy is imported before a verb needs it."""

from dynflow.cli.app import main

__all__ = ["main"]
