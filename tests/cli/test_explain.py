from __future__ import annotations

import shutil

from dynflow.nodes.difficulty_classifier.artefact import FOLDER

GRAPH = """\
version: 1
params:
  hard_above: 0.4
models:
  small: {provider: llama_cpp, model: embedded/smollm2-135m-instruct}
  large: {provider: litellm, model: openai/gpt-5-mini, price: {input: 0.25, output: 2}}
nodes:
  difficulty: {type: difficulty_classifier, estimator: surface}
  rewrite: {type: chat, role: signal, model: small, on_failure: {text: ""}}
  local: {type: chat, model: small}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: rewrite, when: input.tokens > 1000}
  - {from: start, to: difficulty}
  - {from: rewrite, to: local}
  - {from: difficulty, to: local, when: difficulty.failed or difficulty.score < params.hard_above}
  - {from: difficulty, to: cloud}
  - {from: local, to: cloud, when: local.failed}
  - {from: local, to: end}
  - {from: cloud, to: end}
"""


def test_signals_run_and_the_model_is_named(invoke, write, monkeypatch):
    monkeypatch.setattr("dynflow.resources.FlowResources.chat_model", None)  # nobody calls a model
    graph = write("graph.yaml", GRAPH)
    result = invoke("explain", graph, "Hi", "--set", "hard_above=1.1")
    assert result.exit_code == 0
    first, second, third, *_, blank, would, then, failed, otherwise = [*result.stdout.splitlines()]
    assert first == "start → difficulty → local"
    assert second.startswith("  start → difficulty  otherwise")
    assert "difficulty.failed or difficulty.score < params.hard_above  (difficulty.score = 0." in third
    assert blank == ""
    assert would == (
        "local would answer by the model small (llama_cpp embedded/smollm2-135m-instruct, free of charge), "
        "streaming live."
    )
    assert then == "Then, the first that holds:"
    assert (failed, otherwise) == ("  local.failed → cloud", "  otherwise → end")


def test_a_live_answer_and_its_price(invoke, write):
    result = invoke("explain", write("graph.yaml", GRAPH), "Hi", "--set", "hard_above=-1.0")
    words = "cloud would answer by the model large (litellm openai/gpt-5-mini, $0.25 per million tokens in, $2.00 out)"
    assert f"{words}, streaming live." in result.stdout
    assert "Then: end" in result.stdout


def test_a_signal_that_calls_a_model_is_not_run(invoke, write):
    result = invoke("explain", write("graph.yaml", GRAPH), stdin="word " * 2000)
    assert result.stdout.splitlines()[0] == "start → rewrite"
    assert "rewrite, a signal, would call the model small" in result.stdout
    assert "what it would find is not known without that" in result.stdout


def test_a_failed_signal_is_told(invoke, write, tmp_path):
    (shutil.copytree(FOLDER / "surface", tmp_path / "damaged") / "head.safetensors").unlink()
    graph = write("graph.yaml", GRAPH.replace("estimator: surface", "estimator: ./damaged"))
    result = invoke("explain", graph, "Hi")
    assert result.exit_code == 0
    assert "  difficulty (unavailable): " in result.stdout
    assert "local would answer" in result.stdout


def test_groups_are_not_run_if_a_member_would_call_a_model(invoke, write):
    text = GRAPH.replace(
        "edges:\n",
        "  both: {type: race, of: [local, cloud]}\nedges:\n  - {from: start, to: both}\n  - {from: both, to: end}\n",
    )
    kept = [line for line in text.splitlines() if not ("from" in line and "both" not in line) and "rewrite" not in line]
    kept = [line for line in kept if "difficulty" not in line]
    result = invoke("explain", write("race.yaml", "\n".join(kept)), "Hi")
    assert result.exit_code == 0, result.stderr
    assert "both would answer by its members local, cloud (race), held" in result.stdout


def test_the_answers_of_a_sub_graph_are_named(invoke, write):
    write("inner.yaml", GRAPH)
    outer = """\
version: 1
nodes:
  sub: {type: graph, uses: inner.yaml}
edges:
  - {from: start, to: sub}
  - {from: sub, to: end}
"""
    result = invoke("explain", write("outer.yaml", outer), "Hi")
    assert result.exit_code == 0, result.stderr
    assert (
        "sub would answer by the graph inner.yaml (there by local, the model small (llama_cpp "
        "embedded/smollm2-135m-instruct, free of charge); or by cloud, the model large (litellm openai/gpt-5-mini, "
        "$0.25 per million tokens in, $2.00 out)), streaming live.\n"
    ) in result.stdout
