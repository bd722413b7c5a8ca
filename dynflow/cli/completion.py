"""`dynflow completion`: the script that makes a shell complete dynflow's commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that completes commands in your shell.

    It completes verbs, options, node types and graph files.

    \b
    Examples:
      dynflow completion bash >> ~/.bashrc
      dynflow completion zsh >> ~/.zshrc
      dynflow completion fish > ~/.config/fish/completions/dynflow.fish
    """
    from dynflow.cli.app import cli

    completion = get_completion_class(shell)
    assert completion is not None
    made = completion(cli, {}, "dynflow", "_DYNFLOW_COMPLETE")
    # Not `source()`: that runs bash to ask its version, which the user of another shell need not have.
    click.echo(made.source_template % made.source_vars())
