from __future__ import annotations

import json
import subprocess
import sys
from unittest.mock import Mock

import pytest

from dynflow.cli.app import VERBS

HEAVY = ("torch", "litellm", "transformers", "onnxruntime", "numpy", "langchain_core", "pydantic", "networkx", "yaml")


def test_help_imports_nothing_heavy():
    code = f"""
import json, sys
from dynflow.cli.app import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as ended:
    assert ended.code == 0, ended.code
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    for args in (["--help"], ["run", "--help"], ["train", "difficulty", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
        assert "Examples:" in done.stdout
        assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_examples(invoke, verb):
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert f"  dynflow {verb}" in result.stdout.split("Examples:")[1]


def test_the_list_of_verbs_is_not_cut(invoke):
    listed = invoke("--help").stdout.split("Commands:")[1]
    assert all(verb in listed for verb in VERBS)
    assert "..." not in listed


def test_a_misspelt_verb_is_guessed(invoke):
    result = invoke("rnu")
    assert result.exit_code == 2
    assert "there is no command 'rnu' (did you mean 'run'?)" in result.stderr


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "dynflow", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dynflow, version ")


def test_an_internal_error_is_one_line_unless_debugging(invoke, canned, monkeypatch):
    monkeypatch.setattr("dynflow.flow.Flow.run", Mock(side_effect=RuntimeError("a fault of ours")))
    result = invoke("run", canned, "Hi")
    assert result.exit_code == 1
    assert result.stderr == "error: RuntimeError: a fault of ours; rerun with `dynflow --debug …` for the traceback\n"
    with pytest.raises(RuntimeError):
        raise invoke("--debug", "run", canned, "Hi").exception


@pytest.mark.parametrize("name", ["ModelRateLimitError", "ModelAuthenticationError"])
def test_a_providers_error_is_no_fault_of_ours(invoke, canned, monkeypatch, name):
    from langchain_core import exceptions

    monkeypatch.setattr("dynflow.flow.Flow.run", Mock(side_effect=getattr(exceptions, name)("no more")))
    result = invoke("run", canned, "Hi")
    assert result.exit_code == 1
    assert result.stderr == "error: no more\n"


def test_ctrl_c_exits_with_130(invoke, canned, monkeypatch):
    monkeypatch.setattr("dynflow.flow.Flow.run", Mock(side_effect=KeyboardInterrupt))
    result = invoke("run", canned, "Hi")
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr.strip() == "interrupted"


def test_a_broken_pipe_is_quiet():
    command = f"{sys.executable} -m dynflow nodes chat | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_no_colour_where_it_is_not_wanted(write):
    from click.testing import CliRunner

    from dynflow.cli.app import cli

    broken = write("broken.yaml", "version: 2\n")
    assert "\x1b[" in CliRunner().invoke(cli, ["check", broken], color=True).stdout
    assert "\x1b[" not in CliRunner(env={"NO_COLOR": "1"}).invoke(cli, ["check", broken], color=True).stdout
    assert "\x1b[" not in CliRunner().invoke(cli, ["check", broken]).stdout
