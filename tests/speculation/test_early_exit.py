"""Drafts by a model's own first layers: the same text, weights and cache shared, and depths that agree or do not."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from transformers import DynamicCache

from dynflow.speculation.costs import Costs
from dynflow.speculation.early_exit import EarlyExit, first_layers, foreseen
from dynflow.speculation.speculator import Speculator
from tests.speculation.tiny import CHEAP, agreeing, generate, speculating, tiny_llama

COMMON: dict[str, Any] = {"vocab_size": 12, "bos_token_id": None, "eos_token_id": 11}
SIZES: dict[str, Any] = {
    **COMMON,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": SIZES,
    "Mistral": {**SIZES, "sliding_window": None},
    "Qwen2": {**SIZES, "tie_word_embeddings": True},
    "GPT2": {**COMMON, "n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 128},
    "GPTNeoX": {**SIZES, "initializer_range": 0.3},
}
PROMPT = [1, 2, 3, 4, 1, 2]


def made(kind: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**KINDS[kind])
    heads = {"GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM")
    return getattr(transformers, heads)(config).eval()


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


def test_the_first_layers_are_the_models_own(model: Any) -> None:
    ids = torch.tensor([PROMPT])
    fewer = first_layers(model, 2)
    theirs = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in fewer.parameters()} < theirs
    hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[2]
    *_, norm = (part for name, part in model.base_model.named_children() if "norm" in name or name == "ln_f")
    expected = model.get_output_embeddings()(norm(hidden))
    torch.testing.assert_close(fewer(input_ids=ids).logits, expected)
    assert model.config.num_hidden_layers == 4


def test_greedy_text_is_that_of_the_model_alone(model: Any) -> None:
    plain = generate(model, PROMPT)
    decoding = speculating([EarlyExit(first_layers(model, 2), None, lambda: True)])
    assert generate(model, PROMPT, decoding) == plain
    told = decoding.statistics()
    assert told.fallback is None
    assert told.drafters == ("early_exit",)


@pytest.mark.parametrize("temperature", [None, 0.8])
def test_samples_with_drafts_that_were_drawn_or_not(temperature: float | None) -> None:
    model = agreeing(3)
    decoding = speculating([EarlyExit(first_layers(model, 1), temperature, lambda: True)])
    options = {"do_sample": True, "temperature": 0.8, "top_k": 0, "eos_token_id": None}
    torch.manual_seed(3)
    ours = generate(model, PROMPT, decoding, **options)
    told = decoding.statistics()
    if temperature is None:
        torch.manual_seed(3)
        assert ours == generate(model, PROMPT, **options)
    else:  # drawn from the model's own distribution, so that all of it is taken
        assert told.accepted == told.drafted > 20


def test_a_draft_leaves_the_cache_as_it_was() -> None:
    model = tiny_llama(layers=4)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.tensor([PROMPT[:-1]]), past_key_values=cache, use_cache=True)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    drafter = EarlyExit(first_layers(model, 2), None, lambda: True)
    drafter.share(cache)
    drafted = drafter.draft(PROMPT, 5).tokens
    assert len(drafted) == 5
    assert drafter.draft(PROMPT, 5).tokens == drafted
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


@pytest.mark.parametrize("before", [0, 3])
def test_a_draft_that_fails_leaves_the_text_as_it_would_be(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it fails when the first of its layers has read the token, and the second has not."""
    model = tiny_llama(layers=4)
    plain = generate(model, PROMPT)
    first = first_layers(model, 2)
    calls = iter(range(before))

    def fail(module: Any, arguments: Any) -> None:
        if next(calls, None) is None:
            raise RuntimeError("no memory")

    draft = EarlyExit(first, None, lambda: True)

    def drafting(tokens: Any, limit: int, _draft: Any = draft.draft) -> Any:
        hook = first.model.layers[1].register_forward_pre_hook(fail)
        try:
            return _draft(tokens, limit)
        finally:
            hook.remove()

    monkeypatch.setattr(draft, "draft", drafting)
    decoding = speculating([draft])
    assert generate(model, PROMPT, decoding) == plain
    assert decoding.statistics().fallback == "early_exit failed: no memory"


def written(model: Any) -> list[tuple[Any, int]]:
    """Texts of the model's own."""
    prompts = ([1, 2, 3], [4], [7, 8, 1, 5])
    texts = [(prompt, generate(model, prompt, eos_token_id=None)) for prompt in prompts]
    return [(torch.tensor([prompt + text]), len(prompt)) for prompt, text in texts]


def test_agreement_is_counted_on_what_the_model_wrote() -> None:
    model = agreeing()
    ((text, begin), *_) = written(model)
    assert foreseen(first_layers(model, 1), text, begin) == 32
    assert foreseen(model, text, begin) == 32
    text[0, -5] = (text[0, -5] + 1) % 12
    assert foreseen(model, text, begin) < 32


def test_layers_that_agree_are_chosen_and_others_refused() -> None:
    model = agreeing()
    speculator = Speculator(model, Costs(CHEAP))
    assert speculator.first_layers(lambda: written(model)).config.num_hidden_layers == 1
    random = tiny_llama(layers=8)
    refused = Speculator(random, Costs({1: 1e-9, 17: 17e-9}))
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"of 96 tokens that it wrote, its first \d of 8 layers foresaw \d+%; to pay"
        ):
            refused.first_layers(lambda: written(random))


def test_models_that_cannot_exit_early() -> None:
    with pytest.raises(ValueError, match="1 of 1 layers are no early exit"):
        first_layers(tiny_llama(), 1)
    with pytest.raises(ValueError, match="it has too few layers"):
        Speculator(tiny_llama(), Costs(CHEAP)).first_layers(list)
    odd = tiny_llama(layers=2)
    odd.model.more = torch.nn.ModuleList(torch.nn.Identity() for _ in range(2))
    with pytest.raises(ValueError, match="the layers of a LlamaForCausalLM cannot be told"):
        first_layers(odd, 1)
