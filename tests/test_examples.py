"""Every example runs as a user would run it, on the real embedded model, and shows what it is there to show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dynflow.errors import MissingModel
from dynflow.models.embedded import locate

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*command: str | Path, **environment: str) -> str:
    """What a command prints, run by this Python with warnings as errors, without the key that the cloud path needs."""
    inherited = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    full = [sys.executable, "-W", "error", *map(str, command)]
    done = subprocess.run(full, env=inherited | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def _small_model() -> None:
    try:
        locate("embedded/smollm2-135m-instruct")
    except MissingModel as error:
        pytest.skip(str(error))
    pytest.importorskip("xllamacpp")


def test_all_are_tested_and_listed() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    agents = {"agent_with_flow_as_model.py", "agent_with_flow_as_tool.py"}
    others = {"chain.py", "stream.py", "speculative_stream.py", "batch.py", "langgraph_node.py", "testing_a_graph.py"}
    assert scripts == others | agents | {"all.py"}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert not [name for name in scripts if f"]({name})" not in listed]


@pytest.mark.usefixtures("_small_model")
def test_chain() -> None:
    assert "Paris" in run(EXAMPLES / "chain.py")


@pytest.mark.usefixtures("_small_model")
def test_stream() -> None:
    whole, path, whole_async, first, second, third = run(EXAMPLES / "stream.py").strip().splitlines()
    assert len(whole.split("|")) > 4
    assert whole_async == whole
    assert path == "path: start > difficulty > local > end"
    assert first.startswith("[start > difficulty: default")
    assert second.startswith("[difficulty > local: difficulty.failed or")
    assert "'difficulty.score': 0." in second
    assert third.startswith(whole.rstrip("|"))
    assert third.endswith("[local > end: default ]")


@pytest.mark.usefixtures("_small_model")
def test_speculative_stream() -> None:
    printed = run(EXAMPLES / "speculative_stream.py")
    answer, statistics = printed.splitlines()
    green = re.findall("\033\\[32m(.*?)\033\\[0m", answer)
    assert re.sub("\033\\[\\d*m", "", answer).startswith("The town of Marlow plans a new swimming pool beside")
    assert len(green) > 16  # a copy is drafted for the most part, wherever drafts begin and end
    accepted = int(statistics.split("accepted ")[1].split(",")[0])
    assert accepted - len(green) in {0, 1}  # the token that ends an answer has no text


@pytest.mark.usefixtures("_small_model")
def test_batch() -> None:
    printed = run(EXAMPLES / "batch.py")
    places = [printed.index(text) for text in ("capital of France?", "days are in a week?", "duplicate rows?")]
    assert places == sorted(places)
    assert printed.count("path start > difficulty > local > end, $0.0") == 2
    assert printed.count("path start > difficulty > cloud > stand_in > end, $0.0") == 1


@pytest.mark.usefixtures("_small_model")
def test_all() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    lines = run(EXAMPLES / "all.py").splitlines()
    paths = [line for line in lines if line.startswith("  path ")]
    assert [path.split(" > ")[2] for path in paths] == ["picture", "sentiment", "route"]
    assert "  answer a picture of 32 x 32 pixels" in lines
    assert "  answer This review is positive." in lines


@pytest.mark.usefixtures("_small_model")
def test_langgraph_node() -> None:
    pytest.importorskip("langgraph")
    lines = run(EXAMPLES / "langgraph_node.py").splitlines()
    assert len(lines) > 4
    assert all(line.startswith("answer: ") for line in lines)
    assert "".join(line.removeprefix("answer: ").strip("'") for line in lines).count("Paris") == 1


def run_agent(name: str, server: str) -> list[str]:
    """The lines that an agent example prints, with the real local server in place of the hosted models."""
    pytest.importorskip("langchain")
    pytest.importorskip("litellm")
    models = {"SMALL_MODEL": "openai/smollm2", "LARGE_MODEL": "openai/smollm2"}
    deprecated = ("-W", "ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
    return run(*deprecated, EXAMPLES / name, OPENAI_BASE_URL=server, OPENAI_API_KEY="sk-x", **models).splitlines()


def test_agent_with_flow_as_model(smollm2_with_tools: str) -> None:
    lines = run_agent("agent_with_flow_as_model.py", smollm2_with_tools)
    human, asked, first, told, answer, *_ = lines
    assert human == "human: What is the weather in Paris?"
    assert asked == "ai: [('get_weather', {'city': 'Paris'})]"
    assert first.startswith("    path start > difficulty > ")
    assert told == "tool: It is sunny in Paris, 21 degrees."
    assert answer.startswith("ai: ")
    assert lines[-1].startswith("    path start > difficulty > ")


@pytest.mark.usefixtures("_small_model")
def test_agent_with_flow_as_tool(smollm2_with_tools: str) -> None:
    human, asked, *rest = run_agent("agent_with_flow_as_tool.py", smollm2_with_tools)
    assert human == "human: What is the capital of France?"
    assert asked.startswith("ai: [('encyclopedia', {'question': ")
    told = rest.index(next(line for line in rest if line.startswith("    path ")))  # an answer may have several lines
    assert rest[0].startswith("tool: ")
    assert rest[told].startswith("    path start > difficulty > ")
    assert rest[told + 1].startswith("ai: ")


def test_testing_a_graph() -> None:
    assert "4 passed" in run("-m", "pytest", "-p", "no:cacheprovider", EXAMPLES / "testing_a_graph.py")


def test_plugin(tmp_path: Path) -> None:
    source, target = tmp_path / "plugin", tmp_path / "site"
    shutil.copytree(EXAMPLES / "plugin", source)
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    done = subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)])
    assert done.returncode == 0
    graph, path = source / "graph.yaml", {"PYTHONPATH": str(target)}
    assert "ok, 3 nodes" in run("-m", "dynflow", "check", graph, **path)
    assert "keywords.found" in run("-m", "dynflow", "nodes", "keywords", **path)
    answer = run("-m", "dynflow", "run", graph, "I want a REFUND for my last bill", **path)
    assert answer == "A colleague will look at this today: I want a REFUND for my last bill\n"
