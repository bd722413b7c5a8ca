from __future__ import annotations

import pytest
from click.testing import CliRunner

from dynflow.cli.app import cli

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def families():
    """Tiny pipelines by family, made once."""
    from tests.nodes.adaptive_diffusion.tiny_pipelines import FAMILIES

    made = {}

    def family(name):
        if name not in made:
            made[name] = FAMILIES[name]()
            made[name].set_progress_bar_config(disable=True)
        return made[name]

    return family


@pytest.fixture
def invoke():
    """The command line, in this process."""
    return lambda *args: CliRunner().invoke(cli, list(args))
