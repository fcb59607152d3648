"""How long actors go on asking when something failed for a passing reason: a table, and the loop over it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from domain.errors import ConnectionLost, KeyholderUnavailable, ServiceUnavailable, TransientError

T = TypeVar("T")
Wait = Callable[[float], Awaitable[None]]

LONGEST_PAUSE_SECONDS = 2.0
ATTEMPTS: dict[type[TransientError], int] = {
    KeyholderUnavailable: 15,
    ConnectionLost: 4,
    ServiceUnavailable: 4,
}
"""Attempts by error, for the vault and for signing in. An actor is back after about a second; a login service that
does not answer is not pressed, since some of its refusals count against the account."""
PASSING = tuple(ATTEMPTS)


def pause(attempt: int) -> float:
    """Seconds before the attempt that follows this one, counted from 0: 0.1, 0.2, 0.4... at most two."""
    return min(LONGEST_PAUSE_SECONDS, 0.1 * 2.0 ** min(attempt, 10))


async def patiently(call: Callable[[], Awaitable[T]], wait: Wait) -> T:
    """The answer of `call`, asked again after a passing failure as often as `ATTEMPTS` says for it."""
    attempt = 0
    while True:
        try:
            return await call()
        except PASSING as error:
            if attempt + 1 >= ATTEMPTS[type(error)]:
                raise
        await wait(pause(attempt))
        attempt += 1
