"""Artefacts: read as they were written; another model's, or a damaged one, is an error in words."""

import json

import numpy as np
import pytest
import torch

from dynflow.errors import ArtefactError, MissingModel
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.architectures import architecture_of
from dynflow.nodes.early_exit_classifier.artefact import DELTAS, DESCRIPTION, HEADS, apply_deltas, describe, read
from dynflow.nodes.early_exit_classifier.heads import Heads, HeadsShape, pooled
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.reading import Reader
from tests.nodes.early_exit import tiny

TEXTS = tiny.texts(8)
QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "distilbert", "deberta-v3", "modernbert"])
def test_what_was_saved_is_loaded(family, tmp_path):
    loaded = read(describe("artefact", tiny.artefact(tmp_path, family).parent))
    np.testing.assert_array_equal(loaded.trajectories(TEXTS), tiny.model(family).trajectories(TEXTS))
    assert loaded.labels == tiny.LABELS


def test_loading_says_nothing(tmp_path, capfd):
    read(describe(str(tiny.artefact(tmp_path))))
    capfd.readouterr()
    read(describe(str(tmp_path / "artefact")))
    assert capfd.readouterr() == ("", "")


def test_changes_of_the_encoder_are_added_whole_or_in_a_low_rank(tmp_path):
    torch.manual_seed(3)
    up, down, whole = torch.randn(tiny.WIDTH, 2), torch.randn(2, tiny.WIDTH), torch.randn(tiny.WIDTH)
    bias = QUERY.replace("weight", "bias")
    changes = {f"{QUERY}.up": up.half(), f"{QUERY}.down": down.half(), f"{bias}.delta": whole}
    loaded = read(describe(str(tiny.artefact(tmp_path, deltas=changes))))
    query = tiny.stock("bert").bert.encoder.layer[1].attention.self.query
    found = loaded.encoder.bert.encoder.layer[1].attention.self.query
    torch.testing.assert_close(found.weight, query.weight + up.half().float() @ down.half().float())
    torch.testing.assert_close(found.bias, query.bias + whole)
    assert abs(loaded.trajectories(TEXTS) - tiny.model().trajectories(TEXTS))[:, 2:].max() > 0.01


@pytest.mark.parametrize(
    "name", ["encoder.layer.9.x.weight.delta", f"{QUERY}.delta", f"{QUERY}.up", f"{QUERY}.sideways"]
)
def test_changes_for_another_model_are_refused(name):
    with pytest.raises(ArtefactError, match=r"was made for another model: .* does not fit"):
        apply_deltas(tiny.stock("bert").bert, {name: torch.zeros(3, 3)}, "deltas.safetensors")


@pytest.fixture
def place(tmp_path):
    return tiny.artefact(tmp_path)


def changed(place, **facts):
    path = place / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    return describe(str(place))


def test_a_damaged_file_is_told(place):
    data = bytearray((place / HEADS).read_bytes())
    data[-1] ^= 1
    (place / HEADS).write_bytes(data)
    with pytest.raises(ArtefactError, match=r"is damaged .* restore it, or train again"):
        read(describe(str(place)))
    (place / HEADS).unlink()
    with pytest.raises(ArtefactError, match="is damaged"):
        read(describe(str(place)))
    (place / DESCRIPTION).write_text('{"format": 99}')
    with pytest.raises(ArtefactError, match="of another version of dynflow"):
        describe(str(place))


def test_an_encoder_that_is_another_or_missing_is_told(place):
    base = place.parent / "base"
    tiny.stock("bert", seed=9).save_pretrained(base)
    with pytest.raises(ArtefactError, match="the heads were made for another model than"):
        read(describe(str(place)))
    (base / "model.safetensors").unlink()
    with pytest.raises(MissingModel, match=r"it has no \.safetensors file"):
        read(describe(str(place)))


def test_another_architecture_or_depth_is_told(place):
    with pytest.raises(ArtefactError, match="was made for bert of 7 layers"):
        read(changed(place, depth=7))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"labels": ["bad", "good"]}, "the heads tell 3 labels apart, and 2 are named: bad, good"),
        ({"labels": ["bad", "good", "bad"]}, "all different"),
    ],
)
def test_labels_that_do_not_match_are_told(place, facts, says):
    with pytest.raises(ArtefactError, match=says):
        read(changed(place, **facts))


@pytest.mark.parametrize(
    "facts",
    [
        {"labels": "bdg"},
        {"labels": ["bad", "", "good"]},
        {"labels": [1, 2, 3]},
        {"max_tokens": 2},
        {"heads": {}},
        {"heads": {"layers": "012"}},
        {"heads": {"layers": [0, 99]}},
        {"sha256": [HEADS]},
        {"training": []},
        {"criteria": ["scheduled"]},
        {"max_tokens": "24"},
        {"depth": None},
        {"base": {"model": 3, "sha256": "0", "architecture": "bert"}},
    ],
)
def test_a_description_that_makes_no_sense_is_told_before_anything_loads(place, facts):
    with pytest.raises(ArtefactError, match="is damaged, or of another version"):
        changed(place, **facts)


def test_a_description_nested_without_end_is_told(place):
    (place / DESCRIPTION).write_text("[" * 100_000)
    with pytest.raises(ArtefactError, match="is damaged"):
        describe(str(place))


def test_texts_cannot_be_cut_beyond_what_the_encoder_reads(place):
    with pytest.raises(ArtefactError, match=r"cuts texts at 100,000 tokens, and .* reads \d+"):
        read(changed(place, max_tokens=100_000))


def test_changes_of_the_encoder_that_the_description_lacks_are_told(place):
    (place / DELTAS).write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"deltas\.safetensors is not in artefact\.json"):
        read(describe(str(place)))


def test_heads_that_are_not_as_described_are_told(place):
    shape = json.loads((place / DESCRIPTION).read_text())["heads"]
    for wrong in ({**shape, "layers": [0, 1]}, {**shape, "width": 8}, {**shape, "pooling": "last"}, {"layers": [1]}):
        with pytest.raises(ArtefactError, match=r"does not fit artefact\.json") as told:
            read(changed(place, heads=wrong))
        assert "\n" not in str(told.value)


def model(names=tiny.LABELS, **shape):
    given = {"layers": (1,), "width": tiny.WIDTH, "labels": 3} | shape
    heads = Heads(HeadsShape(**given))
    return EarlyExitModel(architecture_of(tiny.stock("bert")), heads, Reader(tiny.tokenizer(), 24), names)


def test_parts_that_do_not_belong_together_are_told():
    assert model().layers == (1, tiny.DEPTH)
    with pytest.raises(ArtefactError, match="for hidden states of 8 numbers"):
        model(width=8)
    with pytest.raises(ArtefactError, match="exits after layers 1, 9"):
        model(layers=(1, 9))
    with pytest.raises(ArtefactError, match="the model's own head tells 3 labels apart, and 2"):
        model(("bad", "good"), labels=2)
    encoder = architecture_of(tiny.stock("bert").bert)
    with pytest.raises(ArtefactError, match="nothing stands after the last layer"):
        EarlyExitModel(encoder, tiny.heads(), Reader(tiny.tokenizer(), 24), tiny.LABELS)


def test_shipped_artefacts_read_and_say_so():
    with pytest.raises(ArtefactError, match="dynflow brings no early-exit model 'embedded/nothing'"):
        describe("embedded/nothing")
    for name in artefact.shipped():
        assert describe(name).facts.labels


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("shared", [False, True])
def test_padding_has_no_part_in_a_head(pooling, shared):
    torch.manual_seed(0)
    heads = tiny.heads((0, 2), pooling=pooling, shared=shared, inner=5, norm=True)
    hidden, mask = torch.randn(2, 6, tiny.WIDTH), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    for layer in heads.layers:
        torch.testing.assert_close(heads(layer, hidden, mask)[1:], heads(layer, hidden[1:, :4]))
    assert (heads(0, hidden).equal(heads(2, hidden))) is shared
    assert pooled(hidden, mask, "first").equal(hidden[:, 0])


def test_the_reader_reads_as_the_tokenizer_does():
    tokenizer, texts = tiny.tokenizer(), tiny.texts(20)
    reader = Reader(tokenizer, 24)
    assert [reader.read(text).ids for text in texts] == tokenizer(texts)["input_ids"]
    tokenizer(texts, truncation=True, max_length=4, padding=True)  # which sets the shared backend's own
    assert reader.read("film " * 10).ids == tokenizer("film " * 10)["input_ids"]
    cut = reader.read("film " * 10**6)
    assert len(cut) == 24
    assert cut.notes
    assert cut.ids[-1] == tokenizer.sep_token_id
    assert reader.read("\n" * 10**4 + "film" + "\n" * 10**4) == reader.read("film")
    [note] = reader.read("film" + " " * 10**4 + "film").notes
    assert note == "the text was cut at 768 characters, the most that the encoder reads"
