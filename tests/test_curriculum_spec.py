"""The curriculum block: quantities, shares, names, and errors that name the legal values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.curriculum.spec import Curriculum, Phase, quantity, readable

GENERAL = {
    "name": "general",
    "tokens": "15T",
    "sequence_length": 4096,
    "packing": "concatenate",
    "mix": {"web": 0.9, "code": 0.1},
}
REPOSITORIES = {
    "name": "repo_code",
    "tokens": "500B",
    "sequence_length": 32768,
    "packing": "best_fit",
    "mix": {"repos": 1},
}


def block(**changes: Any) -> dict[str, Any]:
    return {"scale": 1e-6, "phases": [GENERAL, REPOSITORIES], **changes}


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("15T", 15 * 10**12),
        ("500B", 500 * 10**9),
        ("2.5M", 2_500_000),
        ("100k", 100_000),
        (" 7 T ", 7 * 10**12),
        ("1234", 1234),
        (1234, 1234),
        (1e6, 1_000_000),
        ("0.000001T", 1_000_000),
    ],
)
def test_a_quantity_is_read_exactly(written: Any, tokens: int) -> None:
    assert quantity(written) == tokens


@pytest.mark.parametrize(
    "written",
    [
        "",
        "T",
        "15X",
        "1e6",
        "-5",
        "1.5",
        "0",
        0,
        -1,
        2.5,
        True,
        None,
        [],
        float("nan"),
        float("inf"),
        "2000000T",
        "1" * 40,
    ],
)
def test_what_is_not_a_whole_number_of_tokens_is_refused_with_the_legal_forms(written: Any) -> None:
    with pytest.raises(ValueError, match="write a whole number above 0, or a number with K, M, B or T behind it"):
        quantity(written)


@given(st.integers(1, 10**18))
def test_a_readable_number_loses_no_digit(tokens: int) -> None:
    assert quantity(readable(tokens)) == tokens


def test_readable_numbers_look_as_people_write_them() -> None:
    assert [readable(n) for n in (0, 999, 1000, 1_250_000, 1_234_567, 15 * 10**12)] == [
        "0",
        "999",
        "1K",
        "1.25M",
        "1.234567M",
        "15T",
    ]


def test_scaled_budgets_are_exact_where_floats_are_not() -> None:
    """15e12 * 1e-6 is 14999999.999999998 in floats for some spellings; 0.1 % of 1.15T must be 1.15B."""
    assert Phase.model_validate(GENERAL).budget(1e-6) == 15_000_000
    assert Phase.model_validate({**GENERAL, "tokens": "1.15T"}).budget(0.001) == 1_150_000_000
    assert Phase.model_validate(GENERAL).budget(1.0) == 15 * 10**12


def test_the_glm_recipe_keeps_its_proportions_at_any_scale() -> None:
    tokens = ["15T", "7T", "500B", "500B", "100B"]
    phases = [Phase.model_validate({**REPOSITORIES, "name": f"p{i}", "tokens": t}) for i, t in enumerate(tokens)]
    assert [phase.budget(1e-6) for phase in phases] == [15_000_000, 7_000_000, 500_000, 500_000, 100_000]
    assert [phase.budget(1e-9) * 10 for phase in phases] == [150_000, 70_000, 5_000, 5_000, 1_000]


def test_a_whole_block_is_read_with_its_defaults() -> None:
    spec = Curriculum.model_validate(block(epochs={"web": {"pin": {"high": 3.2, "low": 0}, "over": ["general"]}}))
    assert spec.datasets() == ["web", "code", "repos"]
    assert spec.rule("web").max == 4.0
    assert spec.rule("code").pin == {}
    assert spec.rule("code").max == 4.0
    assert spec.target(spec.phases[0], "web") == pytest.approx(13_500_000, rel=1e-12)
    assert spec.is_pinned(spec.phases[0], "web")
    assert not spec.is_pinned(spec.phases[1], "web")
    assert spec.is_pinned(spec.phases[1], "repos")


ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("shares below 1", block(phases=[{**GENERAL, "mix": {"web": 0.85, "code": 0.1}}]), r"mix of phase 'general' sums to 0.95, not to 1 \(web 0.85 \+ code 0.1\)"),
    ("an empty mix", block(phases=[{**GENERAL, "mix": {}}]), r"sums to 0, not to 1 \(it is empty\)"),
    ("a share of nothing", block(phases=[{**GENERAL, "mix": {"web": 1, "code": 0}}]), "gives dataset 'code' the share 0: leave it out, or give it more than 0"),
    ("a negative share", block(phases=[{**GENERAL, "mix": {"web": 1.5, "code": -0.5}}]), "gives dataset 'code' the share -0.5"),
    ("a share that is no number", block(phases=[{**GENERAL, "mix": {"web": float("nan")}}]), "gives dataset 'web' the share nan"),
    ("two phases of one name", block(phases=[GENERAL, GENERAL]), "phase 'general' stands 2 times; each may stand once"),
    ("a name that is a path", block(phases=[{**GENERAL, "name": "../x"}]), r"'../x' is not a name: use letters A-Z a-z, digits, _ and - only"),
    ("a dataset name with a line end", block(phases=[{**GENERAL, "mix": {"web\n": 1}}]), "is not a name"),
    ("a phase in `over` that is not there", block(epochs={"web": {"over": ["general", "genral"]}}), "`over` names phase 'genral', which is none of: general, repo_code"),
    ("pins over phases without the dataset", block(epochs={"web": {"over": ["repo_code"]}}), "none of the phases in `over` mixes it; these do: general"),
    ("a phase twice in `over`", block(epochs={"web": {"over": ["general", "general"]}}), "name 'general' stands 2 times"),
    ("an empty `over`", block(epochs={"web": {"over": []}}), "an empty list says nothing"),
    ("epochs of a dataset that is not mixed", block(epochs={"wbe": {"max": 3}}), "epochs name dataset 'wbe', but no phase mixes it; mixed are: web, code, repos"),
    ("a pin above the cap", block(epochs={"web": {"pin": {"high": 5}, "max": 4}}), "pin of bucket 'high' is 5 epochs: it must be a number from 0 to `max`, which is 4"),
    ("a negative pin", block(epochs={"web": {"pin": {"high": -1}}}), "pin of bucket 'high' is -1 epochs"),
    ("a pin outside the order", block(epochs={"web": {"pin": {"hihg": 1}, "order": ["low", "high"]}}), "pin names bucket 'hihg', which is none of: low, high"),
    ("values that leave a bucket out", block(epochs={"web": {"values": {"low": 1}, "order": ["low", "high"]}}), "values are given for low, but must be given for each of: low, high"),
    ("values that fall", block(epochs={"web": {"values": {"low": 1.2, "high": 1}, "order": ["low", "high"]}}), r"value of bucket 'high' \(1\) is below that of the worse bucket 'low' \(1.2\)"),
    ("a value of nothing", block(epochs={"web": {"values": {"low": 0}}}), "value of bucket 'low' is 0: it must be a number above 0"),
    ("a cap of nothing", block(epochs={"web": {"max": 0}}), "greater than 0"),
    ("no phases", block(phases=[]), "at least 1 item"),
    ("a scale of nothing", block(scale=0), "greater than 0"),
    ("a budget below one token", block(scale=1e-15), "phase 'general' has 15T tokens x scale 1e-15, less than one token: raise either"),
    ("an unknown packing", block(phases=[{**GENERAL, "packing": "bestfit"}]), "'concatenate' or 'best_fit'"),
    ("a misspelt key", block(epoch={}), "Extra inputs are not permitted"),
    ("a misspelt key within a phase", block(phases=[{**GENERAL, "token": 5}]), "Extra inputs are not permitted"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "message"), [case[1:] for case in ERRORS], ids=[case[0] for case in ERRORS])
def test_a_mistake_is_refused_with_a_sentence(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Curriculum.model_validate(written)


def test_shares_within_a_millionth_of_one_are_accepted_and_made_exact() -> None:
    phase = Phase.model_validate({**GENERAL, "mix": {"a": 0.3333333, "b": 0.3333333, "c": 0.3333333}})
    assert sum(phase.share(name) for name in "abc") == pytest.approx(1, abs=1e-15)
    assert phase.share("d") == 0
