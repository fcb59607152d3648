"""The table of sign-in refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.aadsts import CODES, OAUTH_ERRORS, UNKNOWN, code_of, refusal
from simulator.aadsts import REFUSALS


def test_every_refusal_says_what_is_the_matter_and_what_to_do() -> None:
    for found in (*CODES.values(), *OAUTH_ERRORS.values(), UNKNOWN):
        assert found.sentence.endswith(".")
        assert found.remedy.endswith(".")
        assert found.reason == found.reason.lower()


CATEGORIES = {
    "permanent-credential": "50126 50034 50055 50057 50194 700016 700024 700027 7000112 7000215 7000222",
    "policy": "50072 50076 50079 50158 53000 53001 53003 530034 530035 9001023",
    "locked": "50053",
    "consent": "65001 90094 90099 500011 650052",
    "tenant-gone": "90002",
    "request": "28000 50049 50059 50196 70003 900144",
    "transient": "80001 80002 80014 90033 90055",
}
"""Every code of the table that Microsoft's references and captures of the live service were gathered in, and those that
say that the question was wrong."""


@pytest.mark.parametrize(
    ("code", "category"), [(int(code), category) for category, codes in CATEGORIES.items() for code in codes.split()]
)
def test_a_code_decides_whatever_error_it_comes_with(code: int, category: str) -> None:
    for error in ("invalid_grant", "interaction_required", "unauthorized_client", "invalid_request", ""):
        assert refusal(code, error).category == category


def test_an_unknown_code_is_judged_by_its_error_and_a_strange_one_may_pass() -> None:
    assert refusal(999999, "invalid_client").category == "permanent-credential"
    assert refusal(999999, "interaction_required").category == "policy"
    assert refusal(999999, "invalid_grant", "consent_required").category == "consent"
    assert refusal(999999, "access_denied").category == "policy"
    for error in ("invalid_request", "unsupported_grant_type"):
        assert refusal(999999, error).category == "request"
        assert {refusal(999999, error, status=status).category for status in (429, 500, 503)} == {"transient"}
    assert refusal(999999, "temporarily_unavailable").category == "transient"
    assert refusal(0).category == "transient"


def test_only_what_may_pass_is_asked_again() -> None:
    passing = {code for code, row in REFUSALS.items() if refusal(code, row.error).category == "transient"}

    assert passing == {80001, 80002, 80014, 90033, 90055}


def test_the_code_is_found_in_the_list_or_in_the_description() -> None:
    assert code_of({"error_codes": [50126]}) == 50126
    assert code_of({"error_description": "AADSTS7000215: Invalid client secret.\r\nTrace ID: x"}) == 7000215
    assert code_of({"error_codes": [], "error_description": "no code"}) == 0
    assert code_of({}) == 0


@given(st.dictionaries(st.sampled_from(["error_codes", "error_description", "error"]), st.text() | st.none()))
def test_any_answer_has_a_refusal(answer: dict[str, object]) -> None:
    assert refusal(code_of(answer), str(answer.get("error"))).remedy
