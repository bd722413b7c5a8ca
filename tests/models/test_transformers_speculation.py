"""Speculation by the transformers provider: the same texts, marked runs, statistics, and pairs that are refused."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from langchain_core.exceptions import ModelInvalidRequestError

from dynflow.errors import ArtefactError, InputError, MissingModel
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
from dynflow.models.transformers import TransformersChat, TransformersEngine
from dynflow.speculation.asked import Asked
from dynflow.speculation.statistics import ACCEPTED_KEY, SPECULATION_KEY, Speculation
from tests.speculation.tiny import CHEAP, FixedCosts, agreeing, letters, save_tiny, tiny_llama
from tests.speculation.tiny_tokenizers import TEXTS, byte_fallback, byte_level

SOAK = bool(os.environ.get("DYNFLOW_SOAK"))
PROMPTS = ("a b c d e a b c", "k k k", "d", "f g h i j k a b c d e f g h", "c a c a c a c")


def chat(model: Path | str, **settings: Any) -> TransformersChat:
    given = {"temperature": 0.0, "max_tokens": 40, "threads": 1, **settings}
    made = create(ModelSettings(provider="transformers", model=str(model), **given), "tiny")
    assert isinstance(made, TransformersChat)
    return made


def told(message: Any) -> Speculation:
    return Speculation.from_dict(message.response_metadata[SPECULATION_KEY])


@pytest.fixture
def cheap_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a draft pays is not left to the clock."""
    monkeypatch.setattr("dynflow.speculation.speculator.Speculator.measure", lambda self: FixedCosts(CHEAP))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("target"), tiny_llama())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("draft"), tiny_llama(1, hidden=8))


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("asked", [{}, {"drafters": ["prompt_lookup", "ngram_cache"], "most": 4}])
async def test_the_same_text_in_all_call_styles(folder: Path, asked: dict[str, Any]) -> None:
    model = chat(folder)
    drafted = 0
    for prompt in PROMPTS:
        plain = model.invoke(prompt)
        assert SPECULATION_KEY not in plain.response_metadata
        whole = model.invoke(prompt, speculation=asked)
        assert whole.text == plain.text
        assert whole.usage_metadata == plain.usage_metadata
        assert (await model.ainvoke(prompt, speculation=asked)).text == plain.text
        chunks = [chunk async for chunk in model.astream(prompt, speculation=asked)]
        assert "".join(chunk.text for chunk in chunks) == plain.text
        marked = [text for chunk in chunks for text in chunk.response_metadata.get(ACCEPTED_KEY, ())]
        statistics = told(chunks[-1])
        # An end of text that was drafted has no text.
        assert statistics.accepted - 1 <= sum(len(text.split()) for text in marked) <= statistics.accepted
        assert (statistics.exactness, statistics.dtype) == ("exact_greedy", "float32")
        assert plain.usage_metadata is not None
        assert statistics.tokens == plain.usage_metadata["output_tokens"]
        assert statistics.seconds_plain is not None
        drafted += statistics.drafted
    assert drafted > 0


def test_stop_texts_and_length_cut_where_they_would(folder: Path) -> None:
    model = chat(folder)
    for prompt in PROMPTS:
        for stop in "abcdefgh" if SOAK else "ae":
            plain, ours = (model.invoke(prompt, stop=[stop], **more) for more in ({}, {"speculation": {}}))
            assert ours.text == plain.text
            assert ours.response_metadata["finish_reason"] == plain.response_metadata["finish_reason"]
        cut = model.invoke(prompt, max_tokens=3, speculation={})
        assert cut.text == model.invoke(prompt, max_tokens=3).text


def test_seeded_samples_are_the_same(folder: Path) -> None:
    model = chat(folder, temperature=0.9, top_p=0.95)
    for seed in range(10 if SOAK else 5):
        plain, ours = (model.invoke(PROMPTS[0], seed=seed, **more) for more in ({}, {"speculation": {}}))
        assert ours.text == plain.text
        assert told(ours).exactness == "exact_distribution"


@pytest.mark.usefixtures("cheap_passes")
def test_a_seed_gives_the_plain_text_again_with_a_draft_model_too(folder: Path, small: Path) -> None:
    """Although how much is drafted depends on the clock."""
    model = chat(folder, temperature=0.9)
    asked = {"drafters": ["draft_model"], "draft": str(small)}
    drafted = 0
    for seed in range(10 if SOAK else 5):
        ours = model.invoke(PROMPTS[0], seed=seed, speculation=asked)
        assert ours.text == model.invoke(PROMPTS[0], seed=seed).text
        drafted += told(ours).drafted
    assert drafted > 0


@pytest.mark.parametrize("own", [{"use_cache": False}, {"num_beams": 2}])
def test_generation_settings_of_the_model_that_do_not_fit(tmp_path: Path, own: dict[str, Any]) -> None:
    target = tiny_llama()
    target.generation_config.update(**own)
    model = chat(save_tiny(tmp_path, target))
    assert model.invoke(PROMPTS[0], speculation={}).text == model.invoke(PROMPTS[0]).text


def test_a_draft_is_of_its_own_revision(folder: Path, small: Path) -> None:
    model = chat(folder, revision="main")
    assert model._draft(Asked(draft="someone/model", revision="v2")).arguments["revision"] == "v2"  # type: ignore[union-attr]
    assert model._draft(Asked(draft="someone/model")).arguments["revision"] == "main"  # type: ignore[union-attr]


def test_what_cannot_be_asked_is_a_bad_request(folder: Path) -> None:
    model = chat(folder)
    with pytest.raises(InputError, match=r"speculation\.most"):
        model.invoke(PROMPTS[0], speculation={"most": 0})
    with pytest.raises(MissingModel, match="there is no such folder"):
        model.invoke(PROMPTS[0], speculation={"draft": "/no such folder"})
    with pytest.raises(ModelInvalidRequestError, match="the prompt is empty"):
        model.invoke("", speculation={})


def test_what_drafts_makes_no_other_answer(folder: Path) -> None:
    """To LangChain's cache."""
    model = chat(folder)
    assert model._get_llm_string(speculation={"flow": "a"}) == model._get_llm_string()


def test_answers_are_remembered_only_where_they_may_draft(folder: Path) -> None:
    model = chat(folder)
    model.invoke(PROMPTS[0], speculation={"flow": "plain"})
    model.invoke(PROMPTS[0], speculation={"flow": "cached", "drafters": ["ngram_cache"]})
    engine = model._engine
    assert isinstance(engine, TransformersEngine)
    plain, cached = (engine._speculator._flow(name).ngrams for name in ("plain", "cached"))
    assert len(plain) == 0 < len(cached)


def test_two_threads_do_not_disturb_each_other(folder: Path) -> None:
    model, other = chat(folder), chat(folder)
    expected = {prompt: model.invoke(prompt).text for prompt in PROMPTS}
    with ThreadPoolExecutor(2) as pool:
        first = pool.map(lambda prompt: model.invoke(prompt, speculation={}).text, PROMPTS * 4)
        second = pool.map(lambda prompt: other.invoke(prompt, speculation={"flow": "b"}).text, PROMPTS[::-1] * 4)
        assert list(first) == [expected[prompt] for prompt in PROMPTS * 4]
        assert list(second) == [expected[prompt] for prompt in PROMPTS[::-1] * 4]


def test_a_draft_model_drafts(folder: Path, small: Path) -> None:
    model = chat(folder)
    asked = Asked(drafters=("draft_model",), draft=str(small))
    model.warm_up_speculation(asked)
    for prompt in PROMPTS:
        message = model.invoke(prompt, speculation=asked.as_dict())
        assert message.text == model.invoke(prompt).text
        assert told(message).fallback is None
    sampled = model.invoke(PROMPTS[0], speculation=asked.as_dict(), temperature=1.0)
    assert told(sampled).exactness == "exact_distribution"


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("kind", [byte_level, byte_fallback])
def test_a_draft_model_of_another_tokenizer_drafts(tmp_path: Path, kind: Any) -> None:
    """Each reads the prompt by its own chat template; one that refuses the messages is given their text."""
    sizes = {"vocab_size": 420, "eos_token_id": None, "pad_token_id": 0}
    kinds = [byte_level, byte_fallback] if kind is byte_level else [byte_fallback, byte_level]
    target = chat(save_tiny(tmp_path / "target", tiny_llama(**sizes), kinds[0]()), max_tokens=30)
    tokenizer = kinds[1]()
    tokenizer.chat_template = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}" + (
        tokenizer.chat_template
    )
    asked = Asked(
        ("draft_model",), draft=str(save_tiny(tmp_path / "draft", tiny_llama(1, hidden=8, **sizes), tokenizer))
    )
    target.warm_up_speculation(asked)
    drafted = 0
    for messages in ([("user", TEXTS[1])], [("system", "Be brief."), ("user", TEXTS[0])]):
        plain = target.invoke(messages)
        message = target.invoke(messages, speculation=asked.as_dict())
        assert message.text == plain.text
        statistics = told(message)
        assert statistics.fallback is None
        assert statistics.drafters == ("draft_model",)
        drafted += statistics.drafted
        seeded = [
            target.invoke(messages, temperature=1.0, seed=1, **more) for more in ({}, {"speculation": asked.as_dict()})
        ]
        assert seeded[0].text == seeded[1].text
        assert told(seeded[1]).exactness == "exact_distribution"
    assert drafted > 0


@pytest.mark.usefixtures("cheap_passes")
def test_the_first_layers_draft_where_they_agree(tmp_path: Path) -> None:
    model = chat(save_tiny(tmp_path, agreeing(4, eos_token_id=None, pad_token_id=0)))
    asked = Asked(("early_exit",))
    model.warm_up_speculation(asked)
    accepted = 0
    for prompt in PROMPTS[:2]:
        message = model.invoke(prompt, speculation=asked.as_dict())
        assert message.text == model.invoke(prompt).text
        assert told(message).fallback is None
        accepted += told(message).accepted
    assert accepted > 20
    seeded = [
        model.invoke(PROMPTS[0], temperature=1.0, seed=1, speculation=more).text for more in (asked.as_dict(), {})
    ]
    assert seeded[0] == seeded[1]


def test_the_first_layers_are_refused_where_they_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = FixedCosts({1: 1e-9, 17: 17e-9})
    monkeypatch.setattr("dynflow.speculation.speculator.Speculator.measure", lambda self: costs)
    model = chat(save_tiny(tmp_path, tiny_llama(layers=8)))
    asked = Asked(("early_exit",))
    with pytest.raises(
        ArtefactError, match=r"cannot draft by its first layers: of \d+ tokens that it wrote, its first"
    ):
        model.warm_up_speculation(asked)
    message = model.invoke(PROMPTS[0], speculation=asked.as_dict())
    assert message.text == model.invoke(PROMPTS[0]).text
    assert "decoded plainly" in (told(message).fallback or "")


def test_what_cannot_speculate_is_refused_with_the_reason(folder: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"cannot draft for .*: it is no smaller than the target \([\d,]+ weights"):
        chat(small).warm_up_speculation(Asked(draft=str(folder)))
    other = save_tiny(tmp_path / "other", tiny_llama(1, hidden=8), letters("lmnopqrstuv"))
    with pytest.raises(ArtefactError, match="of 11 words of the target's vocabulary its tokenizer keeps 0"):
        chat(folder).warm_up_speculation(Asked(draft=str(other)))
    sliding = chat(save_tiny(tmp_path / "sliding", sliding_window()))
    with pytest.raises(ArtefactError, match=r"cannot speculate: its cache has layers .* \(DynamicSlidingWindowLayer\)"):
        sliding.warm_up_speculation(Asked())
    static = tiny_llama()
    static.generation_config.cache_implementation = "static"
    with pytest.raises(ArtefactError, match=r"cannot be cropped \(cache_implementation: static\)"):
        chat(save_tiny(tmp_path / "static", static)).warm_up_speculation(Asked())
    statistics = told(sliding.invoke("a b c", speculation={}))
    assert statistics.drafted == 0
    assert statistics.fallback is not None
    assert "decoded plainly" in statistics.fallback


def test_bfloat16_is_told(folder: Path) -> None:
    message = chat(folder, dtype="bfloat16").invoke(PROMPTS[0], speculation={})
    assert told(message).dtype == "bfloat16"
    with pytest.raises(ValueError, match="`device` is an option of provider diffusers"):
        chat(folder, device="cpu")


def test_smollm2_writes_what_it_would_write_alone() -> None:
    """30 prompts of 32 tokens; three of 8 unless the long proofs are asked for."""
    pytest.importorskip("gguf")
    model = chat("embedded/smollm2-135m-instruct", max_tokens=32 if SOAK else 8, threads=None)
    subjects = ("the sea", "a red fox", "tax law", "a clock", "bread", "the moon", "chess", "rain", "a bridge", "tea")
    tasks = ("Repeat word for word: {0}, {0} and {0} are friends of {0}.", "Explain {0} in a sentence.", "Count {0}.")
    prompts = [task.format(subject) for subject in subjects for task in tasks]
    for prompt in prompts if SOAK else prompts[:3]:
        assert model.invoke(prompt, speculation={}).text == model.invoke(prompt).text
    if SOAK:
        with pytest.raises(ArtefactError, match=r"of 72 tokens that it wrote, its first \d+ of 30 layers foresaw \d%;"):
            model.warm_up_speculation(Asked(("early_exit",)))


def sliding_window() -> Any:
    """A tiny Mistral, whose layers forget."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=12,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=8,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=11,
        )
    )


@pytest.mark.parametrize("has_it", [True, False])
def test_numbers_that_a_processor_lacks_are_warned_of(
    folder: Path, has_it: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dynflow.models.transformers.in_software", lambda dtype: dtype == "bfloat16" and not has_it)
    chat(folder, dtype="bfloat16").warm_up()
    assert ("this processor has no bfloat16" in caplog.text) is not has_it
