"""speculative_generator: what it asks of the engine, what it tells, and what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from dynflow import Flow, GraphError, load, loads
from dynflow.compile import check_text
from dynflow.graphs import path
from dynflow.models.llama_cpp import LlamaCppChat
from dynflow.models.ollama import OllamaChat
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create

SMALL = "{provider: llama_cpp, model: embedded/smollm2-135m-instruct, temperature: 0, max_tokens: 32}"
LOCAL = "m: {provider: transformers, model: embedded/smollm2-135m-instruct}"
BEGIN = "Repeat the following text word for word:\n\n"
COPY = (
    f"{BEGIN}The harbour of Westmouth closed on Monday after a crane fell across the main pier. Nobody was hurt, but "
    "two barges were damaged and a warehouse lost part of its roof. The harbour master said that repairs took weeks."
)
COPY_TOO = (
    f"{BEGIN}The town of Marlow plans a new swimming pool beside the railway station. The pool will have eight lanes, "
    "a basin for children and a sauna. Building starts in March and should take two years."
)


def text(options: str = "", models: str = f"m: {SMALL}") -> str:
    return f"""
version: 1
models: {{{models}}}
nodes: {{a: {{type: speculative_generator, model: m{options and ", " + options}}}}}
edges: [{{from: start, to: a}}, {{from: a, to: end}}]
"""


def findings(options: str = "", models: str = f"m: {SMALL}") -> list[str]:
    source, _ = check_text(text(options, models).encode(), "graph")
    return [problem.text for problem in source.sorted() if problem.severity == "error"]


def plain_chat() -> Flow:
    return loads(text().replace("speculative_generator", "chat"))


@pytest.fixture(scope="module")
def shipped() -> Flow:
    return load(path("speculative"))


def test_a_copy_is_drafted_with_the_text_of_a_plain_chat(shipped: Flow) -> None:
    result = loads(text()).run(COPY)
    assert result.value.text == plain_chat().invoke(COPY).text
    (visit,) = result.trace.visits
    assert visit.values["drafted"] >= visit.values["accepted"] > 8
    assert visit.values["passes"] + visit.values["accepted"] == result.ledger.tokens()["output"] - 1
    assert any(note.startswith(f"drafted {visit.values['drafted']}, accepted") for note in visit.notes)
    (line,) = result.ledger.as_dict()["nodes"]
    assert line["speculation"]["accepted"] == visit.values["accepted"]
    assert line["speculation"]["exactness"] == "exact_greedy"


async def test_it_streams_and_says_which_runs_were_accepted(shipped: Flow) -> None:
    chunks = [chunk async for chunk in shipped.astream(COPY_TOO)]
    accepted = [chunk.text for chunk in chunks if chunk.response_metadata.get("accepted")]
    assert len(accepted) > 8
    assert "".join(chunk.text for chunk in chunks) == shipped.invoke(COPY_TOO).text


def test_new_text_is_written_plainly(shipped: Flow) -> None:
    result = shipped.run("Say hello.")
    (visit,) = result.trace.visits
    assert visit.values["drafted"] == 0
    assert any(note.startswith("drafted nothing") for note in visit.notes)


def test_a_draft_that_cannot_load_is_refused_as_the_node_warms_up(tmp_path: Any) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    models = f"m: {SMALL}, d: {{provider: llama_cpp, model: '{tmp_path}/broken.gguf'}}"
    with pytest.raises(Exception, match="cannot load"):
        loads(text("draft: d", models)).invoke("hello")


def test_labels_keep_their_ports() -> None:
    flow = loads(text("labels: ['yes', 'no'], system: 'Answer yes.'"))
    assert {"label", "drafted", "accepted", "passes"} <= set(flow.checked.nodes["a"].ports)


@pytest.mark.parametrize(
    ("options", "models", "reason"),
    [
        ("", "m: {provider: host}", "its provider is host"),
        ("max_draft: 4", "m: {provider: litellm, model: openai/gpt-5-mini}", "by its own settings alone"),
        ("drafters: [prompt_lookup]", "m: {provider: litellm, model: openai/gpt-5-mini}", "litellm has no drafter"),
        ("drafters: [prompt_lookup]", "m: {provider: ollama, model: tiny}", "ollama has no drafter 'prompt_lookup'"),
        ("drafters: [early_exit]", f"m: {SMALL}", "the provider llama_cpp has no drafter 'early_exit'"),
        ("drafters: [early_exit]", "m: {provider: ollama, model: tiny}", "ollama has no drafter 'early_exit'"),
        ("drafters: [draft_model]", f"m: {SMALL}", "needs `draft`"),
        ("draft: d", f"m: {SMALL}, d: {SMALL}", "cannot draft for itself"),
        ("draft: m", f"m: {SMALL}", "cannot draft for itself"),
        ("draft: d", f"m: {SMALL}, d: {{provider: transformers, model: x}}", "must be of the model's provider"),
        ("draft: d, drafters: [prompt_lookup]", f"m: {SMALL}, d: {SMALL}", "`drafters` has no draft_model"),
        ("drafters: [draft_head]", LOCAL, "needs `draft_head`, a folder"),
        ("draft_head: /none, drafters: [prompt_lookup]", LOCAL, "`drafters` has no draft_head"),
        ("draft_head: /none", f"m: {SMALL}", "a model of llama_cpp takes no draft head"),
        ("draft_head: /none", LOCAL, "there is no draft head in /none"),
        ("draft_head: embedded/none", LOCAL, "dynflow brings no draft head 'embedded/none'"),
        ("draft: d", "m: {provider: ollama, model: a}, d: {provider: ollama, model: b}", "takes no draft model"),
    ],
)
def test_wrong_pairs_are_findings(options: str, models: str, reason: str) -> None:
    assert any(reason in finding for finding in findings(options, models)), findings(options, models)


def test_an_unknown_drafter_and_an_unknown_model_are_refused() -> None:
    with pytest.raises(GraphError, match="crystal_ball"):
        loads(text("drafters: [crystal_ball]"))
    with pytest.raises(GraphError, match="unknown_model"):
        loads(text("draft: nobody"))


def asked_of(monkeypatch: pytest.MonkeyPatch, flow: Flow, model: type[Any]) -> dict[str, Any]:
    """The call options that reach a model."""
    seen: dict[str, Any] = {}

    def stop(self: Any, stop: Any, options: dict[str, Any]) -> Any:
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(model, "_options", stop)
    with pytest.raises(ValueError, match="enough"):
        flow.invoke("hello")
    return seen


def test_what_the_engine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaCppChat, "warm_up", lambda self: None)
    monkeypatch.setattr(LlamaCppChat, "warm_up_speculation", lambda self, asked: None)
    asked = asked_of(monkeypatch, loads(text("drafters: [prompt_lookup], max_draft: 6")), LlamaCppChat)["speculation"]
    assert asked["flow"].startswith("a ")
    assert {**asked, "flow": ""} == {"drafters": ["prompt_lookup"], "most": 6, "flow": ""}


def test_a_plain_chat_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaCppChat, "warm_up", lambda self: None)
    assert "speculation" not in asked_of(monkeypatch, plain_chat(), LlamaCppChat)


def test_ollama_is_told_the_length_of_a_draft() -> None:
    model = create(ModelSettings(provider="ollama", model="tiny"), "m")
    assert isinstance(model, OllamaChat)
    assert model._request([], {"draft_num_predict": 4, "stop": None})["options"]["draft_num_predict"] == 4
