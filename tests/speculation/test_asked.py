"""The call option `speculation`."""

import json

import pytest

from dynflow.speculation.asked import Asked


def test_plain_values_survive_json() -> None:
    asked = Asked(("prompt_lookup",), most=8, draft="embedded/tiny", flow="answer")
    assert Asked.from_dict(json.loads(json.dumps(asked.as_dict()))) == asked
    assert Asked().as_dict() == {}
    assert Asked.from_dict({"drafters": []}) == Asked(drafters=())


def test_what_is_allowed() -> None:
    assert Asked().allows("prompt_lookup")
    assert not Asked().allows("draft_model")
    assert Asked(draft="embedded/tiny").allows("draft_model")
    assert not Asked(drafters=()).allows("prompt_lookup")


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no drafter crystal_ball"):
        Asked.from_dict({"drafters": ["crystal_ball"]})
    with pytest.raises(TypeError):
        Asked.from_dict({"depth": 3})
