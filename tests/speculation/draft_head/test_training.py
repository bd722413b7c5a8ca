"""`dynflow train draft` on a tiny model: what it makes drafts for that model, and for no other."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from click.testing import CliRunner

from dynflow.cli.train import command
from dynflow.errors import ArtefactError, InputError
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
from dynflow.models.transformers import TransformersChat
from dynflow.speculation.asked import Asked
from dynflow.speculation.draft_head import artefact
from dynflow.speculation.draft_head.training import texts
from dynflow.speculation.draft_head.training.fitting import Fit
from dynflow.speculation.draft_head.training.texts import Texts
from dynflow.speculation.draft_head.training.train import Head, Report, train
from dynflow.speculation.draft_head.training.writing import write
from dynflow.speculation.statistics import SPECULATION_KEY, Speculation
from tests.speculation.tiny import CHEAP, VOCABULARY, FixedCosts, generate, save_tiny, tiny_llama

PROMPTS = ("a b c d e a b c", "k k k", "d", "f g h i j k a b c d e f g h", "c a c a c a c")
TEXTS = Texts(answers=64, tokens=24)
HEAD = Head(inner=16, vocabulary=VOCABULARY)
FIT = Fit(epochs=12, depth=3, batch_rows=8, rate=1e-2)


def settings(folder: Path) -> ModelSettings:
    return ModelSettings(provider="transformers", model=str(folder), threads=1, temperature=0.0, max_tokens=40)


def chat(folder: Path, **more: Any) -> TransformersChat:
    made = create(settings(folder).model_copy(update=more), "tiny")
    assert isinstance(made, TransformersChat)
    return made


@pytest.fixture(autouse=True)
def _cheap_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a draft pays is not left to the clock."""
    monkeypatch.setattr("dynflow.speculation.speculator.Speculator.measure", lambda self: FixedCosts(CHEAP))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("target"), tiny_llama())


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    letters = "abcdefghijk"
    file.write_text("\n".join(f"{one} {two}" for one in letters for two in letters), "utf-8")
    return file


@pytest.fixture(scope="module")
def report(folder: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("head")
    return train(settings(folder), out, data=[prompts], texts=TEXTS, head=HEAD, fitted=FIT, command="dynflow …")


def test_it_learns_and_says_how_well(report: Report) -> None:
    assert report.figures.taken[0] > 0.5  # one in twelve by chance
    assert report.figures.covered == 1.0
    assert 0.8 * TEXTS.answers < report.answers + report.figures.answers <= TEXTS.answers
    card = (report.out / "README.md").read_text("utf-8")
    assert f"| 1 | {report.figures.taken[0]:.1%} | {1 + report.figures.taken[0]:.2f} |" in card
    assert "(acceptance.svg)" in card
    assert (report.out / "acceptance.svg").is_file()
    assert not (report.out / ".training").exists()
    assert report.size == sum(file.stat().st_size for file in report.out.iterdir())


def test_greedy_text_is_the_plain_one(folder: Path, report: Report) -> None:
    model, accepted = chat(folder), 0
    for prompt in PROMPTS:
        asked = {"drafters": ["draft_head"], "head": str(report.out)}
        ours = model.invoke(prompt, speculation=asked)
        assert ours.text == model.invoke(prompt).text
        told = Speculation.from_dict(ours.response_metadata[SPECULATION_KEY])
        assert told.fallback is None
        assert set(told.drafters) <= {"draft_head"}
        accepted += told.accepted
    assert accepted > 0


def test_a_seeded_sample_is_the_plain_one(folder: Path, report: Report) -> None:
    model, drafted = chat(folder, temperature=0.9), 0
    for seed in range(4):
        ours = model.invoke(PROMPTS[0], seed=seed, speculation={"drafters": ["draft_head"], "head": str(report.out)})
        assert ours.text == model.invoke(PROMPTS[0], seed=seed).text
        drafted += Speculation.from_dict(ours.response_metadata[SPECULATION_KEY]).drafted
    assert drafted > 0


def test_another_model_is_refused_and_answers_plainly(tmp_path: Path, report: Report) -> None:
    model = chat(save_tiny(tmp_path, tiny_llama(1)))
    ours = model.invoke(PROMPTS[0], speculation={"head": str(report.out)})
    assert ours.text == model.invoke(PROMPTS[0]).text
    told = Speculation.from_dict(ours.response_metadata[SPECULATION_KEY])
    assert told.fallback is not None
    assert "this model has other weights" in told.fallback


def test_the_same_model_in_other_numbers_is_known(report: Report) -> None:
    assert artefact.fingerprint(tiny_llama()) == artefact.fingerprint(tiny_llama().bfloat16())
    assert artefact.fingerprint(tiny_llama()) != artefact.fingerprint(tiny_llama(1))


def test_what_is_damaged_is_refused(tmp_path: Path, report: Report) -> None:
    with pytest.raises(ArtefactError, match=r"it has no draft_head\.json"):
        artefact.describe(str(tmp_path))
    with pytest.raises(ArtefactError, match="dynflow brings no draft head"):
        artefact.describe("embedded/none")
    facts = json.loads((report.out / artefact.DESCRIPTION).read_text("utf-8"))
    (tmp_path / artefact.TENSORS).write_bytes(b"nothing")
    for change, said in (({"format": 0}, "made by another version"), ({"inner": "x"}, "no numbers"), ({}, "SHA-256")):
        (tmp_path / artefact.DESCRIPTION).write_text(json.dumps({**facts, **change}), "utf-8")
        with pytest.raises(ArtefactError, match=said):
            artefact.load(str(tmp_path), tiny_llama())


def test_a_killed_run_goes_on(
    folder: Path, prompts: Path, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And makes the same artefact as one that was not."""

    class Killed(Exception):
        pass

    def kill(at: int, what: str) -> Any:
        def progress(done: int, total: int, label: str) -> None:
            if label == what and done >= at:
                raise Killed

        return progress

    monkeypatch.setattr("dynflow.learning.checkpoint._SECONDS", 0.0)
    how: dict[str, Any] = {"data": [prompts], "texts": TEXTS, "head": HEAD, "fitted": FIT, "command": "dynflow …"}
    with pytest.raises(Killed):
        train(settings(folder), tmp_path, progress=kill(64, "the model's own text"), **how)
    monkeypatch.setattr(texts, "write", None)  # the text is there already
    with pytest.raises(Killed):
        train(settings(folder), tmp_path, progress=kill(50, "fitting the head"), **how)
    steps: list[int] = []
    train(settings(folder), tmp_path, progress=lambda done, total, what: steps.append(done), **how)
    assert 50 in steps
    assert 40 not in steps
    for file in report.out.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_rows_of_a_batch_are_what_each_would_be_alone() -> None:
    model = tiny_llama()
    asked = [[0, 1, 2, 3, 4], [10], [3, 3]]
    for answer, prompt in zip(write(model, asked, [0.0] * 3, 20, {11}), asked, strict=True):
        assert answer.tokens.tolist() == generate(model, prompt, max_new_tokens=20)
        whole = torch.tensor([[*prompt, *answer.tokens.tolist()]])
        states = model.model(whole).last_hidden_state[0, len(prompt) - 1 : -1]
        assert torch.allclose(answer.states.float(), states, atol=1e-2)


def test_a_model_draws_its_own_prompts(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    with pytest.raises(InputError, match="give --data"):
        train(settings(folder), tmp_path / "none", texts=TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for message in messages %}a b {{ message['content'] }} </s>{% endfor %}"
    target = tmp_path / "target"
    tiny_llama().save_pretrained(target)
    tokenizer.save_pretrained(target)
    report = train(settings(target), tmp_path / "head", texts=TEXTS, head=HEAD, fitted=Fit(epochs=1))
    assert "prompts that it drew itself" in (report.out / "README.md").read_text("utf-8")


def test_the_command(folder: Path, prompts: Path, tmp_path: Path) -> None:
    sizes = ["--answers", "32", "--tokens", "8", "--inner", "8", "--vocabulary", "12", "--epochs", "1"]
    arguments = ["draft", str(folder), "--data", str(prompts), "--out", str(tmp_path / "head"), *sizes]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "trained on " in done.stdout
    assert "use it with `draft_head: " in done.stdout
    for wrong, said in (
        (["--answers", "3"], "3 answers are too few to learn from"),
        (["--tokens", "256"], "no room for a prompt in the 256 that .* reads: give fewer with --tokens"),
    ):
        with pytest.raises(InputError, match=said):
            CliRunner().invoke(command, [*arguments, *wrong], catch_exceptions=False)
    for wrong, said in ((["--rate", "0"], "--rate"), (["--rate", "nan"], "no finite number")):
        refused = CliRunner().invoke(command, [*arguments, *wrong])
        assert (refused.exit_code, said in refused.stderr) == (2, True)
    refused = CliRunner().invoke(command, ["draft", "", *arguments[2:]])
    assert (refused.exit_code, "MODEL is empty" in refused.stderr) == (2, True)


def test_a_single_prompt_is_too_few(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a b\n", "utf-8")
    with pytest.raises(InputError, match="1 prompt is too few"):
        train(settings(folder), tmp_path / "head", data=[tmp_path / "one.txt"])


def test_what_is_mended_is_read_and_folders_are_those_of_the_graph(
    folder: Path, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that was damaged as a request came drafts for the next one once it is whole; `~` is the user's folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    model = chat(folder)
    model.base = folder.parent
    asked = {"drafters": ["draft_head"], "head": "~/head"}
    refused = model.invoke(PROMPTS[0], speculation=asked)
    assert f"there is no draft head in {tmp_path}/head" in str(refused.response_metadata[SPECULATION_KEY]["fallback"])
    shutil.copytree(report.out, tmp_path / "head")
    assert model.invoke(PROMPTS[0], speculation=asked).response_metadata[SPECULATION_KEY]["fallback"] is None


def test_a_head_watches_its_model_once_however_many_warm_up(folder: Path, report: Report) -> None:
    models = [chat(folder) for _ in range(4)]
    _, target = models[0].loaded()
    before = len(target.model._forward_hooks)
    barrier = threading.Barrier(len(models))

    def warm_up(model: TransformersChat) -> None:
        barrier.wait()
        model.warm_up_speculation(Asked(head=f"{report.out}/."))

    with ThreadPoolExecutor(len(models)) as pool:
        list(pool.map(warm_up, models))
    assert len(target.model._forward_hooks) == before + 1
