"""`dynflow models`: the models and libraries that are here, and the commands that get the missing ones."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import click

from dynflow.cli.terminal import table

# What each provider needs: distributions, and the command that installs them.
_PROVIDERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("llama_cpp", ("xllamacpp",), 'pip install "dynflow[quickstart]"'),
    ("transformers", ("transformers", "torch"), 'pip install "dynflow[transformers]"'),
    ("litellm", ("litellm",), 'pip install "dynflow[litellm]"'),
    ("ollama", ("ollama",), 'pip install "dynflow[ollama]"'),
    ("encoder", ("transformers", "torch"), 'pip install "dynflow[transformers]"'),
    ("embedding", ("onnxruntime", "tokenizers"), 'pip install "dynflow[quickstart]"'),
)


@click.command("models")
def command() -> None:
    """Show which models and providers are installed.

    For what is missing it shows the command that installs it. Nothing is loaded. Embedded
    models are PyPI packages: they need no model hub.

    \b
    Examples:
      dynflow models
    """
    from dynflow.models.embedded import installed

    click.echo(click.style("embedded models", bold=True))
    click.echo(
        table([(model.name, _state(model.installed, model.command), model.about) for model in installed()], "  ")
    )
    click.echo("\n" + click.style("providers", bold=True))
    click.echo(table([_provider(*provider) for provider in _PROVIDERS], "  "))


def _provider(name: str, distributions: tuple[str, ...], install: str) -> tuple[str, str]:
    versions = {distribution: _version(distribution) for distribution in distributions}
    if missing := [distribution for distribution, found in versions.items() if found is None]:
        return name, _state(False, f"{install}  (lacks {', '.join(missing)})")
    return name, ", ".join(f"{distribution} {found}" for distribution, found in versions.items())


def _state(here: bool, install: str) -> str:
    return "installed" if here else f"missing: {install}"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
