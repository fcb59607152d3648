"""How a credential is listed."""

from __future__ import annotations

import pytest

from cli.forecast import credential_object
from domain.credential import Credential
from domain.events import CredentialRejected
from domain.ids import ENTRA, TenantId

TENANT = TenantId("11111111-2222-3333-4444-555555555555")


@pytest.mark.parametrize(
    ("code", "why"), [(50126, "AADSTS50126 (permanent-credential)"), (0, "permanent-credential"), (None, None)]
)
def test_why_a_credential_is_refused_names_a_code_only_where_there_is_one(code: int | None, why: str | None) -> None:
    rejected = None
    if code is not None:
        rejected = CredentialRejected(
            code=code, category="permanent-credential", permanent=True, run=None, resource="graph"
        )
    credential = Credential(
        tenant=TENANT,
        slot=ENTRA,
        kind="app-secret",
        identity="app",
        vault_key="key",
        digest="",
        expires=None,
        refusals=(rejected,) if rejected else (),
    )
    assert credential_object(credential)["why"] == why
