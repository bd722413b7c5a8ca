"""The node in graphs: ports, params, batches, signals, time, and what is said of bad input."""

import re
import threading
import time

import pytest
import torch

import dynflow
from dynflow.answers import Classification
from dynflow.calibration.recorded import read_from_file
from dynflow.errors import ArtefactError, GraphError, InputError, NodeFailed
from dynflow.node import Cancelled
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.request import Request
from tests.nodes.early_exit import tiny

GRAPH = """
version: 1
name: reviews
params:
  sure: {default: 0.9, min: 0, max: 1, tune: true}
models:
  reviews:
    provider: encoder
    model: artefact
nodes:
  tone:
    type: early_exit_classifier
    model: reviews
    exit:
      criterion: confidence
      threshold: ${params.sure}
edges:
  - {from: start, to: tone}
  - {from: tone, to: end}
"""
SIGNAL = """
version: 1
models:
  reviews:
    provider: encoder
    model: artefact
nodes:
  tone:
    type: early_exit_classifier
    role: signal
    model: reviews
    exit: {criterion: confidence, threshold: 0.5}
  sure:
    type: prompt
    role: answer
    template: "{label} {good}"
    with:
      label: ${tone.label}
      good: ${tone.probabilities.good}
  unsure: {type: prompt, role: answer, template: ask somebody}
edges:
  - {from: start, to: tone}
  - {from: tone, to: unsure, when: tone.failed or tone.confidence < 0.6 and tone.label != 'good'}
  - {from: tone, to: sure}
  - {from: sure, to: end}
  - {from: unsure, to: end}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("reviews")
    tiny.artefact(place)
    return place


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def flow(folder):
    return dynflow.loads(GRAPH, base=folder)


def test_the_answer_and_its_ports(flow):
    result = flow.run("a fine film")
    assert isinstance(result.value, Classification)
    assert result.value.label in tiny.LABELS
    assert sum(result.value.probabilities.values()) == pytest.approx(1)
    assert list(result.value.probabilities) == list(tiny.LABELS)
    assert result.value.confidence == max(result.value.probabilities.values())
    assert result.ports["layers"] == tiny.DEPTH
    assert 0 <= result.ports["layer"] <= tiny.DEPTH
    assert result.ledger.usd == 0
    assert result.ledger.entries[0].usage.input_tokens == 5


async def test_batches_go_in_one_and_say_what_single_requests_say(flow, monkeypatch):
    texts = tiny.texts(20)
    alone = [flow.invoke(text) for text in texts]
    sizes = []
    real = EarlyExitModel.classify_tokens

    def counting(self, tokens, *args, **options):
        sizes.append(len(tokens))
        return real(self, tokens, *args, **options)

    monkeypatch.setattr(EarlyExitModel, "classify_tokens", counting)
    for found in (flow.batch(texts), await flow.abatch(texts)):
        assert [each.label for each in found] == [each.label for each in alone]
        assert [each.confidence for each in found] == pytest.approx([each.confidence for each in alone], abs=1e-5)
    assert sizes == [20, 20]


def test_each_request_of_a_batch_has_its_own_threshold_and_its_own_failure(flow):
    configs = [{"configurable": {"sure": sure}} for sure in (0.0, 1.0, 0.0, 0.0)]
    texts = ["a fine film"] * 2 + ["", "\u200b zzz"]
    results = flow.batch(texts, config=configs, return_exceptions=True)
    assert [type(each) for each in results] == [Classification, Classification, InputError, InputError]
    layers = [flow.run("a fine film", config=config).ports["layer"] for config in configs[:2]]
    assert layers == [0, tiny.DEPTH]
    assert results[0].probabilities != results[1].probabilities


def test_it_can_be_a_signal(folder):
    flow = dynflow.loads(SIGNAL, base=folder)
    assert read_from_file(flow) == ("sure", "unsure"), "on replay the signal runs for real"
    said = flow.batch(tiny.texts(30))
    assert "ask somebody" in [each.text for each in said]
    assert any(each.text.split()[0] in tiny.LABELS for each in said)


def test_its_model_is_loaded_once_for_all_flows_and_freed_with_them(folder, flow, monkeypatch):
    reads = []
    real = artefact.read
    monkeypatch.setattr(artefact, "read", lambda described: reads.append(described) or real(described))
    other = dynflow.loads(GRAPH, base=folder)
    threads = [threading.Thread(target=each.invoke, args=("a fine film",)) for each in (flow, other) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) <= 1  # an earlier test's flow may still hold it
    held = artefact._models[artefact.describe("artefact", folder).digest]
    assert held is flow.resources.node("tone")._loaded is other.resources.node("tone")._loaded


def test_what_was_trained_on_is_known(flow):
    node = flow.resources.node("tone")
    assert node.trained_on(Request("A  fine FILM"))
    assert not node.trained_on(Request("a dreadful film"))
    assert node.fingerprint() == artefact.describe("artefact", flow.resources.folder).digest


def test_long_texts_are_cut_and_the_trace_says_so(flow):
    result = flow.run("film " * 10_000)
    assert result.trace.visits[0].notes[0] == "the text was cut at 24 tokens, the most that the encoder reads"
    assert result.value == flow.invoke("film " * 22)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("\u200b\u200b", "the text is empty"),
        ("[CLS] [SEP]", "the text is empty"),
        ("😀", "knows no word of the text"),
        ("Ω фильм 映画", "knows no word of the text"),
    ],
)
def test_nothing_to_read_is_an_error_never_a_label(flow, text, says):
    with pytest.raises(InputError, match=says):
        flow.invoke(text)


def test_half_a_character_fails_its_own_request_alone(flow):
    results = flow.batch(["a fine film", "bad \ud83d film"], return_exceptions=True)
    assert isinstance(results[0], Classification)
    assert isinstance(results[1], InputError)
    assert "surrogate" in str(results[1])


def test_mixed_scripts_are_read_as_far_as_they_are_known(flow):
    assert not any("unknown" in note for note in flow.run("a fine film 😀").trace.visits[0].notes)
    notes = flow.run("film 映画 😀").trace.visits[0].notes
    assert notes[0] == "3 of the text's 4 tokens are unknown to the encoder"


def test_a_run_that_nobody_waits_for_ends_between_layers(flow, monkeypatch):
    flow.invoke("a fine film")
    model = flow.resources.node("tone")._loaded
    passed = []
    real = model.architecture.layer

    def slow(index, hidden, context):
        passed.append(index)
        time.sleep(0.2)
        return real(index, hidden, context)

    monkeypatch.setattr(model.architecture, "layer", slow)
    limited = dynflow.loads(
        GRAPH.replace("model: reviews\n", "model: reviews\n    timeout: 100ms\n"), base=flow.resources.folder
    )
    limited.resources.node("tone")
    passed.clear()
    with pytest.raises(dynflow.errors.NodeTimeout):
        limited.invoke("a fine film", config={"configurable": {"sure": 1.0}})
    with pytest.raises(dynflow.errors.NodeTimeout):
        limited.batch(["a fine film", "film"], config={"configurable": {"sure": 1.0}})
    time.sleep(0.6)
    assert len(passed) <= 4, "both runs end soon after the layer that they were at, far from all eight"


def test_waiting_for_the_model_ends_when_called_off(flow):
    node = flow.resources.node("tone")
    off = threading.Event()

    class Call:
        options = node.options
        request = type("Request", (), {"text": "a fine film"})()

        @staticmethod
        def check():
            if off.is_set():
                raise Cancelled

    Call.options = node.Options(model="reviews")
    with node._turn:
        threading.Timer(0.1, off.set).start()
        with pytest.raises(Cancelled):
            node.run(Call)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("model: artefact", "model: nowhere"), "it has no artefact.json"),
        (("model: artefact", "model: embedded/sst"), "dynflow brings no early-exit model 'embedded/sst'"),
        (("model: artefact", "model: ${env:MODEL}"), "its `model` is a reference"),
        (("provider: encoder", "provider: llama_cpp"), "its provider is llama_cpp, not encoder"),
        (("criterion: confidence", "criterion: konfidence"), "did you mean 'confidence'"),
        (("threshold: ${params.sure}", "threshold: 1.5"), "a threshold of confidence is 0 to 1, not 1.5"),
        (("default: 0.9, min: 0, max: 1", "default: 5, min: 0, max: 9"), "a threshold of confidence is 0 to 1, not 5"),
        (
            ("default: 0.9, min: 0, max: 1, tune: true", "default: high"),
            "`threshold` takes a number; ${params.sure} is string",
        ),
        (
            ("threshold: ${params.sure}", "threshold: ${input.text}"),
            "`threshold` takes a number; ${input.text} is string",
        ),
        (("threshold: ${params.sure}", "threshold: .inf"), "`threshold`: input should be a finite number"),
        (("threshold: ${params.sure}", "threshold: .nan"), "`threshold`: input should be a finite number"),
        (("threshold: ${params.sure}", "threshold: often"), "`threshold` takes a number, this is the text 'often'"),
        (("threshold: ${params.sure}", "treshold: 0.5"), "'treshold' is not known here (did you mean 'threshold'?)"),
        (("threshold: ${params.sure}", "x: 0.5"), "'x' is not known here (expected one of: criterion, patience, "),
        (("    exit:", "    text: ' '\n    exit:"), "there is nothing to classify"),
        (("to: end}", "to: end, when: tone.label == 'splendid'}"), "splendid"),
    ],
)
def test_faults_are_told_before_anything_loads(folder, change, says):
    with pytest.raises(GraphError, match=re.escape(says)):
        dynflow.loads(GRAPH.replace(*change), base=folder)


def test_a_bad_threshold_is_one_fault(folder):
    with pytest.raises(GraphError) as told:
        dynflow.loads(GRAPH.replace("threshold: ${params.sure}", "threshold: [1]"), base=folder)
    assert [problem.code for problem in told.value.problems] == ["wrong_type"]


def test_the_trace_says_where_a_text_left(flow):
    result = flow.run("a fine film", {"configurable": {"sure": 1.0}})
    assert result.trace.visits[0].notes == (f"left after {tiny.DEPTH} of {tiny.DEPTH} layers",)


@pytest.mark.parametrize(
    ("criterion", "patience", "says"),
    [
        ("confidence", 2, "confidence takes no 'patience'"),
        ("patience_and_confidence", 0, "a patience is 1 or more, whole exits, not 0"),
    ],
)
def test_a_fault_of_patience_is_told_where_it_stands(folder, criterion, patience, says):
    faulty = GRAPH.replace("criterion: confidence", f"patience: {patience}\n      criterion: {criterion}")
    with pytest.raises(GraphError, match=says) as told:
        dynflow.loads(faulty, base=folder)
    line = GRAPH.splitlines().index("      criterion: confidence") + 1
    assert f":{line}:" in str(told.value)


def test_exit_takes_a_mapping(folder):
    faulty = GRAPH.replace(
        "exit:\n      criterion: confidence\n      threshold: ${params.sure}", "exit: ${params.sure}"
    )
    with pytest.raises(GraphError, match="`exit` takes a mapping"):
        dynflow.loads(faulty, base=folder)


def test_a_threshold_out_of_range_from_a_reference_fails_the_node(folder):
    graph = GRAPH.replace("min: 0, max: 1, tune: true", "min: 0, max: 5")
    with pytest.raises(NodeFailed, match="a threshold of confidence is 0 to 1, not 2"):
        dynflow.loads(graph, base=folder).invoke("a fine film", config={"configurable": {"sure": 2.0}})


def test_without_exits_all_layers_run(folder):
    plain = GRAPH.replace("    exit:\n      criterion: confidence\n      threshold: ${params.sure}\n", "").replace(
        "params:\n  sure: {default: 0.9, min: 0, max: 1, tune: true}\n", ""
    )
    result = dynflow.loads(plain, base=folder).run("a fine film")
    assert result.ports["layer"] == tiny.DEPTH
    assert result.trace.visits[0].notes == ()


def test_threads_of_the_entry_are_honoured(folder):
    two = dynflow.loads(GRAPH.replace("model: artefact", "model: artefact\n    threads: 2"), base=folder)
    two.invoke("a fine film")
    assert torch.get_num_threads() == 2


def test_weights_that_give_no_numbers_are_an_error(folder, flow):
    flow.invoke("film")
    model = flow.resources.node("tone")._loaded
    weight = model.heads.exits["0"].output.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        with pytest.raises(ArtefactError, match="the exit after layer"):
            flow.invoke("a fine film", config={"configurable": {"sure": 0.0}})
    finally:
        with torch.no_grad():
            weight.copy_(kept)
