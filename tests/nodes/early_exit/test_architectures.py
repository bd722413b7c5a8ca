"""Each architecture gives its stock model's numbers, whatever leaves the batch on the way."""

import numpy as np
import pytest
import torch
import transformers

from dynflow.errors import ArtefactError
from dynflow.nodes.early_exit_classifier.architectures import architecture_of
from dynflow.nodes.early_exit_classifier.criteria import Confidence, Patience, Static, recorded
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.reading import Reader
from tests.nodes.early_exit import tiny

TEXTS = tiny.texts(40)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", tiny.CONFIGURATIONS)
def test_exits_off_gives_the_stock_logits(family):
    stock = tiny.stock(family)
    tokens = tiny.tokenizer()(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.inference_mode():
        alone = [
            stock(**tiny.tokenizer()(text, return_tensors="pt", return_token_type_ids=False)).logits for text in TEXTS
        ]
        together = stock(**tokens).logits
    model = EarlyExitModel(architecture_of(stock), tiny.heads(), Reader(tiny.tokenizer(), 24), tiny.LABELS)

    with torch.inference_mode():
        same_batch = model(tokens["input_ids"], tokens["attention_mask"])[-1]
    found = model.trajectories(TEXTS)[:, -1]

    assert together.std(0).min() > 0.01, "rows must differ, or nothing is shown"
    torch.testing.assert_close(same_batch, together, atol=1e-6, rtol=1e-6)
    # Other batches add up in another order: what stock does alone and padded differs as much.
    np.testing.assert_allclose(found, torch.cat(alone), atol=1e-5, rtol=1e-5)
    whole = model.classify(TEXTS, None)
    assert [each.layer for each in whole] == [tiny.DEPTH] * len(TEXTS)
    assert [each.label for each in whole] == [tiny.LABELS[place] for place in together.argmax(-1)]
    np.testing.assert_allclose([each.probabilities for each in whole], together.softmax(-1), atol=1e-5)


@pytest.mark.parametrize("family", tiny.CONFIGURATIONS)
def test_leaving_rows_change_nothing_for_those_that_stay(family):
    model = tiny.model(family)
    trajectories = model.trajectories(TEXTS)
    sure = float(np.quantile(recorded.scores(Confidence(0.5), trajectories, model.layers)[:, :-1], 0.75))
    for criterion in (Confidence(sure), Patience(1)):
        together = model.classify(TEXTS, criterion, batch_rows=16)
        alone = [model.classify([text], criterion)[0] for text in TEXTS]
        offline = recorded.exits(criterion, trajectories, model.layers)

        assert len({each.layer for each in together}) > 1, "rows must leave at several layers"
        assert [each.layer for each in together] == [each.layer for each in alone]
        assert [each.layer for each in together] == [model.layers[place] for place in offline]
        np.testing.assert_allclose(
            [each.probabilities for each in together], [each.probabilities for each in alone], atol=1e-5
        )


@pytest.mark.parametrize("family", tiny.CONFIGURATIONS)
def test_training_differs_only_by_dropout_and_reaches_all_weights(family):
    model = tiny.model(family)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "mlp_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    tokens = model.reader.batch([model.reader.read(text) for text in TEXTS[:8]])
    with torch.inference_mode():
        expected = model(*tokens)
    model.train()

    found = model(*tokens)
    sum(logits.sum() for logits in found).backward()

    for have, want in zip(found, expected, strict=True):
        torch.testing.assert_close(have, want.clone(), atol=1e-5, rtol=1e-5)
    untouched = [name for name, weight in model.encoder.named_parameters() if weight.grad is None]
    assert not [name for name in untouched if "layer" in name or "attn" in name], untouched


def test_changed_weights_are_followed_in_place_and_after_eval():
    model = tiny.model("bert")
    before = model.trajectories(TEXTS[:4])
    query = model.encoder.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        query.weight.mul_(-1)
    inplace = model.trajectories(TEXTS[:4])
    assert abs(inplace - before)[:, 1:].max() > 1e-3

    model.encoder.bert.encoder.layer[0].attention.self.query = Doubled(query)
    model.eval()
    wrapped = model.trajectories(TEXTS[:4])
    assert abs(wrapped - inplace)[:, 1:].max() > 1e-3, "a module that is not stock runs as it is"


class Doubled(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden):
        return 2 * self.inner(hidden)


def test_positions_are_kept_once_whatever_the_lengths_of_texts():
    model = tiny.model("deberta-v3")
    texts = sorted(TEXTS, key=len)
    expected = [tiny.model("deberta-v3").trajectories([text]) for text in texts[::-1]]
    found = [model.trajectories([text]) for text in texts[::-1]]  # the longest first: the others take a part of its own
    np.testing.assert_array_equal(found, expected)
    assert model.architecture._positions.shape == (1, 22, 22)


def test_static_layers_run_no_more_heads_than_they_need():
    model = tiny.model("bert")
    seen = []
    model.heads.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    [found] = model.classify(TEXTS[:1], Static(2))
    assert (found.layer, seen) == (2, [2])


def test_other_architectures_and_decoders_are_refused_in_words():
    with pytest.raises(ArtefactError, match=r"known for bert, .*modernbert, not for the architecture 'gpt2'"):
        architecture_of(transformers.GPT2Model(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)))
    decoder = tiny.stock("bert")
    decoder.config.is_decoder = True
    with pytest.raises(ArtefactError, match="configured as a decoder"):
        architecture_of(decoder)
