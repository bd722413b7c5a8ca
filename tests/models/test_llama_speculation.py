"""llama.cpp that drafts, on the real SmolLM2: the same text as plain, and statistics that add up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from dynflow.errors import ArtefactError, InputError
from dynflow.models.embedded import resolve_model_file
from dynflow.models.llama_cpp import LlamaCppChat, LlamaEngine
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
from dynflow.speculation.asked import Asked
from dynflow.speculation.choosing import Chooser, Lookup
from dynflow.speculation.statistics import Speculation

NAME = "embedded/smollm2-135m-instruct"
COPY = (
    "Repeat the following text word for word:\n\n"
    "The harbour of Westmouth closed on Monday after a crane fell across the main pier. Nobody was hurt, but two "
    "barges were damaged and a warehouse lost part of its roof. The harbour master, Ellen Price, said that repairs "
    "would take three weeks."
)
STORY = "Tell me a story about a ship."
AFRESH = {"cache_prompt": False}
"""What a prompt's cache holds, earlier requests read in batches of their own, and so rounded otherwise."""
ASK = {"drafters": ["prompt_lookup"], "flow": "test"}


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppChat]:
    made = create(ModelSettings(provider="llama_cpp", model=NAME, temperature=0.0, max_tokens=32), "small")
    assert isinstance(made, LlamaCppChat)
    made.warm_up()
    yield made
    made.close()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft whatever is asked, so that the exactness of drafting is tested and not the choice."""
    monkeypatch.setattr(Chooser, "choose", lambda self, kind, modes, unread: modes[0] if modes else None)


def told(message: Any) -> Speculation:
    return Speculation.from_dict(message.response_metadata["speculation"])


@pytest.mark.parametrize("prompt", [COPY, STORY, "List the vowels: a, e, i, o, u, a, e, i, o, u, a, e, i"])
def test_greedy_text_is_that_of_plain_decoding(model: LlamaCppChat, always: None, prompt: str) -> None:
    plain = model.invoke(prompt, **AFRESH)
    assert "speculation" not in plain.response_metadata
    drafted = model.invoke(prompt, speculation=ASK, **AFRESH)
    assert drafted.text == plain.text
    assert told(drafted).exactness == "exact_greedy"
    assert told(drafted).dtype == "Q4_1"
    assert drafted.usage_metadata is not None
    assert plain.usage_metadata is not None
    assert drafted.usage_metadata["output_tokens"] == plain.usage_metadata["output_tokens"] == told(drafted).tokens


async def test_statistics_add_up_streamed_and_not(model: LlamaCppChat, always: None) -> None:
    chunks = [chunk async for chunk in model.astream(COPY, speculation=ASK)]
    total = sum(chunks[1:], chunks[0])
    streamed, whole = told(total), told(model.invoke(COPY, speculation=ASK))
    for each in (streamed, whole):
        assert each.drafted > each.accepted / 2 > 4
        assert sum(each.drafted_by_position) == each.drafted
        assert sum(each.accepted_by_position) == each.accepted
        assert each.passes + each.accepted == each.tokens - 1
        assert each.drafters == ("prompt_lookup",)
        assert each.speed_up is not None
        assert each.seconds_verifying is not None
        assert 0 < each.seconds_verifying <= each.seconds
    assert (streamed.drafted, streamed.accepted, streamed.passes) == (whole.drafted, whole.accepted, whole.passes)
    accepted = total.response_metadata["accepted"]
    assert len(accepted) == streamed.accepted
    assert all(text in total.text for text in accepted)


def test_the_controller_drafts_a_copy_and_leaves_a_story_plain(model: LlamaCppChat) -> None:
    copy = model.invoke(COPY, speculation={**ASK, "flow": "choice"})
    story = model.invoke(STORY, speculation={**ASK, "flow": "choice"})
    assert told(copy).accepted > 8
    assert told(story).drafted == 0
    assert told(story).passes == told(story).tokens - 1
    assert told(story).drafters == ()


def test_log_probabilities_come_for_every_token(model: LlamaCppChat, always: None) -> None:
    message = model.invoke(COPY, speculation=ASK, logprobs=True)
    assert len(message.response_metadata["logprobs"]["content"]) >= told(message).tokens - 1
    assert told(message).drafted == 0


def test_a_stop_text_and_a_seed_hold(model: LlamaCppChat, always: None) -> None:
    assert model.invoke(COPY, speculation=ASK, stop=["barges"]).text == model.invoke(COPY, stop=["barges"]).text
    for temperature, seed in ((1.0, 3), (0.8, 0), (0.8, 1)):
        message = model.invoke(COPY, speculation=ASK, temperature=temperature, seed=seed)
        assert message.text == model.invoke(COPY, temperature=temperature, seed=seed).text
        assert told(message).exactness == "exact_distribution"


def test_an_end_inside_a_draft_counts_only_what_it_left(model: LlamaCppChat, always: None) -> None:
    """llama.cpp tells of all that it accepted, behind a stop text too."""
    for stop in (["Monday"], ["fell across"], ["main pier. No"]):
        each = told(model.invoke(COPY, speculation=ASK, stop=stop))
        assert each.passes + each.accepted in (each.tokens - 1, each.tokens)
        assert sum(each.accepted_by_position) == each.accepted


def test_passes_add_up_where_characters_take_several_tokens(model: LlamaCppChat, always: None) -> None:
    each = told(model.invoke("Repeat: " + "😀🎉" * 6, speculation=ASK))
    assert each.accepted > 8
    assert each.passes + each.accepted in (each.tokens - 1, each.tokens)


def test_the_longest_draft_that_can_be_asked_for_leaves_the_process_alive(model: LlamaCppChat, always: None) -> None:
    """A draft that fills a batch makes llama.cpp end the process."""
    prompt = "Repeat word for word: " + "one two three four five six seven eight nine ten " * 12
    asked = {"drafters": ["ngram_cache"], "most": 256}
    message = model.invoke(prompt, speculation=asked, max_tokens=100)
    assert max(len(told(message).drafted_by_position), told(message).accepted) > 32


def test_a_draft_of_one_token_is_a_draft(model: LlamaCppChat, always: None) -> None:
    each = told(model.invoke(COPY, speculation={**ASK, "most": 1}))
    assert each.accepted > 4
    assert len(each.drafted_by_position) == 1


def test_warming_up_does_not_wait_for_an_answer(model: LlamaCppChat, always: None) -> None:
    asked = Asked(("prompt_lookup",))
    model.warm_up_speculation(asked)
    stream = model.stream(STORY, max_tokens=4000, speculation=asked.as_dict())
    assert next(stream) is not None
    model.warm_up_speculation(asked)
    assert next(stream) is not None  # not at its end
    stream.close()  # type: ignore[attr-defined]


def test_what_cannot_be_asked_is_a_bad_request(model: LlamaCppChat) -> None:
    with pytest.raises(InputError, match=r"speculation\.most"):
        model.invoke(STORY, speculation={"most": 0})


def test_a_draft_model_drafts(model: LlamaCppChat, always: None, tmp_path: Path) -> None:
    twin = shutil.copy(resolve_model_file(NAME, None), tmp_path / "twin.gguf")  # agrees with the target on everything
    asked = {"drafters": ["draft_model"], "draft": str(twin), "most": 4}
    message = model.invoke(STORY, speculation=asked, max_tokens=8)
    assert message.text == model.invoke(STORY, max_tokens=8).text  # further on, a near tie falls otherwise in a batch
    assert told(message).drafters == ("draft_model",)
    assert told(message).accepted > 4
    Path(twin).unlink()  # it is loaded: nobody misses the file
    assert told(model.invoke(STORY, speculation=asked, max_tokens=8)).accepted > 4


def test_drafts_that_are_none_are_refused(model: LlamaCppChat, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is the model itself"):
        model.warm_up_speculation(Asked(draft=NAME))
    large = tmp_path / "large.gguf"
    with large.open("wb") as file:
        file.write(b"GGUF")
        file.truncate(10**9)
    with pytest.raises(InputError, match="is larger than the model"):
        model.invoke(STORY, speculation={"draft": str(large)})
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(ArtefactError, match="cannot load"):
        model.warm_up_speculation(Asked(("draft_model",), draft=str(broken)))


def test_a_draft_of_another_vocabulary_is_refused(model: LlamaCppChat, tmp_path: Path) -> None:
    whole = resolve_model_file(NAME, None).read_bytes()
    begin, end = whole.index(b"tokenizer.ggml.tokens"), whole.index(b"tokenizer.ggml.merges")
    other = tmp_path / "other.gguf"
    other.write_bytes(whole[:begin] + whole[begin:end].replace(b"story", b"yrots") + whole[end:])
    with pytest.raises(ArtefactError, match="its vocabulary is not the model's"):
        model.warm_up_speculation(Asked(("draft_model",), draft=str(other)))


def test_where_drafting_fails_the_answer_is_plain_and_says_so(
    model: LlamaCppChat, always: None, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    message = model.invoke(STORY, speculation={"drafters": ["draft_model"], "draft": str(broken)})
    assert isinstance(message, AIMessage)
    assert message.text == model.invoke(STORY).text
    assert "decoded plainly" in (told(message).fallback or "")


def test_closing_a_stream_stops_the_drafting_server(model: LlamaCppChat, always: None) -> None:
    stream = model.stream(STORY, max_tokens=4000, speculation=ASK)
    assert next(stream) is not None
    stream.close()  # type: ignore[attr-defined]
    assert told(model.invoke(COPY, speculation=ASK)).accepted > 8


def test_servers_are_made_when_they_are_wanted(model: LlamaCppChat) -> None:
    engine = model._engine
    assert isinstance(engine, LlamaEngine)
    before = len(engine._speculator.servers)
    model.warm_up_speculation(Asked(("prompt_lookup",), most=5))
    assert len(engine._speculator.servers) == before + 1
    assert Lookup(3, 5) in engine._speculator._servers
