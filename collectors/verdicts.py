"""What an answer that is not a page means: a table, read from top to bottom, first match wins.

Statuses and codes follow Microsoft's error references for Graph; marks of Exchange are those its own module retries on.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from collectors.dataset import Dataset, Workload
from collectors.reader import shortened
from collectors.work import NotPossible, Truncated
from domain.errors import TokenExpired

Verdict = Literal[
    "token-expired",
    "throttled",
    "unavailable",
    "resync",
    "page-expired",
    "gone",
    "unlicensed",
    "not-consented",
    "not-permitted",
    "refused",
]


class Rule(NamedTuple):
    """`statuses` empty: any. `marks` empty: whatever the body says; else one of them stands in it (lower case)."""

    workloads: tuple[Workload, ...]
    statuses: tuple[int, ...]
    marks: tuple[str, ...]
    verdict: Verdict


_GRAPH: tuple[Workload, ...] = ("graph",)
_EXCHANGE: tuple[Workload, ...] = ("exchange",)
_BOTH: tuple[Workload, ...] = ("graph", "exchange")
_REFUSALS = (400, 401, 403, 404, 409, 410)

RULES: tuple[Rule, ...] = (
    Rule(_BOTH, (401,), (), "token-expired"),
    Rule(_GRAPH, (410,), (), "resync"),
    Rule(_GRAPH, _REFUSALS, ("syncstatenotfound", "syncstateinvalid", "resyncrequired"), "resync"),
    Rule(
        _GRAPH,
        _REFUSALS,
        ("expiredpagetoken", "pagetokennotfound", "invalidpagetoken", "token not found", "skiptoken"),
        "page-expired",
    ),
    Rule(_EXCHANGE, (), ("expired or invalid pagination request",), "page-expired"),
    Rule(_EXCHANGE, (), ("maximum number of concurrent requests",), "throttled"),
    Rule(_BOTH, (429,), (), "throttled"),
    Rule(_GRAPH, (509,), (), "throttled"),
    Rule(
        _EXCHANGE,
        (),
        (
            "serverbusyexception",
            "transientexception",
            "backendcommunicationexception",
            "cmdletproxynotavailable",
            "unabletowritetoaad",
            "issue may be transient",
        ),
        "unavailable",
    ),
    Rule(_EXCHANGE, (400, 404, 500), ("managementobjectnotfoundexception",), "gone"),
    Rule(_EXCHANGE, (400, 404), ("commandnotfoundexception", "is not recognized as"), "not-permitted"),
    Rule(_BOTH, (408, 425, 500, 502, 503, 504, 507), (), "unavailable"),
    Rule(_GRAPH, (400, 403), ("nonpremium", "premium license", "not licensed", "have a license"), "unlicensed"),
    Rule(_BOTH, (403,), ("permissionmissing", "consent"), "not-consented"),
    Rule(_BOTH, (403,), (), "not-permitted"),
    Rule(_BOTH, (404,), (), "gone"),
)
REPEATED: tuple[Verdict, ...] = ("throttled", "unavailable")
"""The transport asks again after these."""
RESTARTED: dict[str, str] = {"resync": "resync-required", "page-expired": "page-token-expired"}

REMEDIES: dict[str, str] = {
    "unlicensed": "{name} needs {licence} in the tenant. Add the licence, or take the dataset out of its plan.",
    "not-consented": "{name} needs {permission}, which this tenant has not consented to. Ask its administrator to.",
    "not-permitted": "{name} needs {permission}. Grant it in this tenant, or take the dataset out of its plan.",
}


class ServiceError(NamedTuple):
    """`text` is everything that tells errors apart, in lower case; `shown` is what people should read."""

    text: str
    shown: str


class _Inner(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    internalexception: _Inner | None = None


class _Detail(msgspec.Struct):
    message: str | None = None


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    innererror: _Inner | None = None
    details: list[_Detail] | None = None


class _Body(msgspec.Struct):
    error: _Error = msgspec.field(default_factory=_Error)


def service_error(body: bytes | msgspec.Raw) -> ServiceError:
    """What an error body says; nothing when it is no error body, since a refusal may carry any bytes."""
    try:
        error = msgspec.json.decode(body, type=_Body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ServiceError("", "")
    said = [error.code, error.message, *(detail.message for detail in error.details or ())]
    inner = error.innererror
    for _depth in range(4):
        if inner is None:
            break
        said += [inner.type, inner.message]
        inner = inner.internalexception
    telling = said[2] if len(said) > 2 and error.details else error.message
    if error.innererror and error.innererror.internalexception:
        telling = error.innererror.internalexception.message or telling
    shown = ": ".join(filter(None, (error.code, telling)))
    return ServiceError("\n".join(filter(None, said)).lower(), shortened(shown))


def verdict(workload: Workload, status: int, error: ServiceError) -> Verdict:
    """What this answer means; `refused` when no rule knows it."""
    for rule in RULES:
        if (
            workload in rule.workloads
            and (not rule.statuses or status in rule.statuses)
            and (not rule.marks or any(mark in error.text for mark in rule.marks))
        ):
            return rule.verdict
    return "refused"


def end_of(dataset: Dataset, found: Verdict, status: int, error: ServiceError) -> NotPossible | Truncated:
    """How a collection ends that cannot go on after this answer."""
    if found in REMEDIES:
        remedy = REMEDIES[found].format(
            name=dataset.name, permission=dataset.permission, licence=dataset.licence or "another licence"
        )
        return NotPossible(found, shortened(f"{remedy} The service said: {error.shown or f'HTTP {status}'}"))
    reason = found if found in REPEATED else "refused"
    return Truncated(reason, f"HTTP {status}. {error.shown}".strip())


def token_refused(workload: Workload, times: int, error: ServiceError) -> Truncated:
    """How a collection ends whose access token was refused so often without an answer in between. Raises `TokenExpired`
    the first time: a fresh one may do."""
    if times == 1:
        raise TokenExpired(workload)
    return Truncated("token-refused", "A fresh access token was refused as well. " + error.shown)
