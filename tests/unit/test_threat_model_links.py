"""What the threat model claims is shown by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
LINK = re.compile(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`")
HOLDS = TEXT.partition("## What holds")[2].partition("## What does not hold")[0]
CLAIMS = [
    line
    for line in HOLDS.splitlines()
    if line.startswith("| ") and not line.startswith("| Claim") and "---" not in line
]


@pytest.mark.parametrize(("file", "name"), sorted(set(LINK.findall(TEXT))))
def test_a_named_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^ *(?:async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_names_a_test(claim: str) -> None:
    assert LINK.search(claim)


def test_there_are_claims() -> None:
    assert len(CLAIMS) > 20
