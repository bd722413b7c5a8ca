"""The call option `speculation`."""

import json
from typing import Any

import pytest

from dynflow.errors import InputError
from dynflow.speculation.asked import Asked


def test_plain_values_survive_json() -> None:
    asked = Asked(("prompt_lookup",), most=8, draft="embedded/tiny", flow="answer")
    assert Asked.from_dict(json.loads(json.dumps(asked.as_dict()))) == asked
    assert Asked().as_dict() == {}
    assert Asked.from_dict({"drafters": []}) == Asked(drafters=())


def test_what_is_allowed() -> None:
    assert Asked().allows("prompt_lookup")
    assert not Asked().allows("draft_model")
    assert not Asked().allows("ngram_cache")  # what earlier answers taught is used only where somebody says so
    assert Asked(draft="embedded/tiny").allows("draft_model")
    assert not Asked(drafters=()).allows("prompt_lookup")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (True, "speculation: .*dictionary"),
        ({"drafters": ["crystal_ball"]}, "speculation.drafters.0: .*'prompt_lookup'.*, not 'crystal_ball'"),
        ({"drafters": "prompt_lookup"}, "speculation.drafters: "),
        ({"depth": 3}, "speculation.depth: "),
        ({"most": 0}, "speculation.most: .*greater than or equal to 1"),
        ({"most": 10**9}, "speculation.most: .*less than or equal to 256"),
        ({"draft": 5}, "speculation.draft: .*string, not 5"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_key_at_fault(values: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Asked.from_dict(values)
