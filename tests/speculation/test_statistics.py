"""Statistics of one request's speculation."""

import json

import pytest

from dynflow.speculation.statistics import Speculation

SOME = Speculation(
    tokens=72,
    passes=23,
    drafted=57,
    accepted=49,
    drafted_by_position=(10, 8, 0),
    accepted_by_position=(10, 4, 0),
    drafters=("prompt_lookup",),
    seconds=1.0,
    seconds_plain=2.5,
)


def test_what_follows_from_the_counts() -> None:
    assert SOME.mean_accepted_length == 72 / 23
    assert SOME.acceptance == 49 / 57
    assert SOME.acceptance_by_position == (1.0, 0.5, None)
    assert SOME.speed_up == 2.5
    assert SOME.phrase() == "drafted 57, accepted 49, 23 passes"


def test_plain_decoding_has_no_acceptance_and_no_speed_up() -> None:
    plain = Speculation(tokens=5, passes=5)
    assert (plain.mean_accepted_length, plain.acceptance, plain.speed_up) == (1.0, None, None)
    assert plain.phrase() == "drafted nothing, 5 passes"
    assert Speculation(tokens=0, passes=0).mean_accepted_length == 0.0


def test_plain_values_survive_json_and_keys_of_later_versions() -> None:
    values = json.loads(json.dumps(SOME.as_dict()))
    assert Speculation.from_dict({**values, "of_tomorrow": 1}) == SOME


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="3 tokens accepted of 2"):
        Speculation(tokens=3, passes=1, drafted=2, accepted=3)
    with pytest.raises(ValueError, match="lossy_parameter"):
        Speculation(tokens=1, passes=1, exactness="lossy")
    with pytest.raises(ValueError, match="lossy_parameter"):
        Speculation(tokens=1, passes=1, lossy_parameter=0.1)
    with pytest.raises(ValueError, match="not 'nearly'"):
        Speculation(tokens=1, passes=1, exactness="nearly")  # type: ignore[arg-type]
