"""How long actors go on asking when something failed for a passing reason: a table, and the loop over it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from domain.errors import ConnectionLost, KeyholderUnavailable, ServiceUnavailable, Throttled, TransientError

T = TypeVar("T")
Wait = Callable[[float], Awaitable[None]]


class Schedule(NamedTuple):
    """Attempts, and the pauses between them: `first` seconds, each twice the one before, at most `longest`."""

    attempts: int
    first: float = 0.1
    longest: float = 2.0

    def pause(self, attempt: int) -> float:
        """Before the attempt that follows this one, counted from 0."""
        return min(self.longest, self.first * 2.0 ** min(attempt, 20))


ACTOR = Schedule(15)
"""An actor is back after about a second."""
LOGIN = Schedule(4, first=2.0, longest=30.0)
"""A login service that does not answer is not pressed, since some of its refusals count against the account."""
SCHEDULES: dict[type[TransientError], Schedule] = {
    KeyholderUnavailable: ACTOR,
    ConnectionLost: LOGIN,
    ServiceUnavailable: LOGIN,
    Throttled: LOGIN,
}
"""By error, for the vault and for signing in."""
PASSING = tuple(SCHEDULES)


async def patiently(call: Callable[[], Awaitable[T]], wait: Wait) -> T:
    """The answer of `call`, asked again after a passing failure as `SCHEDULES` says, and not before its service did."""
    attempt = 0
    while True:
        try:
            return await call()
        except PASSING as error:
            schedule = SCHEDULES[type(error)]
            if attempt + 1 >= schedule.attempts:
                raise
            asked = float(error.args[1]) if isinstance(error, Throttled) else 0.0
        await wait(max(schedule.pause(attempt), asked))
        attempt += 1
