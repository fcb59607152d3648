"""The table of sign-in refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.aadsts import CODES, OAUTH_ERRORS, UNKNOWN, code_of, refusal


def test_every_refusal_says_what_is_the_matter_and_what_to_do() -> None:
    for found in (*CODES.values(), *OAUTH_ERRORS.values(), UNKNOWN):
        assert found.sentence.endswith(".")
        assert found.remedy.endswith(".")
        assert found.reason == found.reason.lower()


@pytest.mark.parametrize(
    ("code", "category"),
    [
        (50126, "permanent-credential"),
        (7000222, "permanent-credential"),
        (700027, "permanent-credential"),
        (50076, "policy"),
        (53003, "policy"),
        (50053, "locked"),
        (65001, "consent"),
        (500011, "consent"),
        (90002, "tenant-gone"),
        (90033, "transient"),
    ],
)
def test_a_code_decides_whatever_error_it_comes_with(code: int, category: str) -> None:
    for error in ("invalid_grant", "interaction_required", "unauthorized_client", ""):
        assert refusal(code, error).category == category


def test_an_unknown_code_is_judged_by_its_error_and_a_strange_one_may_pass() -> None:
    assert refusal(999999, "invalid_client").category == "permanent-credential"
    assert refusal(999999, "interaction_required").category == "policy"
    assert refusal(999999, "invalid_grant", "consent_required").category == "consent"
    assert refusal(999999, "temporarily_unavailable").category == "transient"
    assert refusal(0).category == "transient"


def test_the_code_is_found_in_the_list_or_in_the_description() -> None:
    assert code_of({"error_codes": [50126]}) == 50126
    assert code_of({"error_description": "AADSTS7000215: Invalid client secret.\r\nTrace ID: x"}) == 7000215
    assert code_of({"error_codes": [], "error_description": "no code"}) == 0
    assert code_of({}) == 0


@given(st.dictionaries(st.sampled_from(["error_codes", "error_description", "error"]), st.text() | st.none()))
def test_any_answer_has_a_refusal(answer: dict[str, object]) -> None:
    assert refusal(code_of(answer), str(answer.get("error"))).remedy
