"""What can go wrong, as types.

    TenantryError
    ├── TransientError      the same call may succeed later
    │   ├── Throttled, ServiceUnavailable, ConnectionLost, KeyholderUnavailable, StoreUnavailable
    │   ├── StoreReplaced (a StoreUnavailable), CollectorLost, TransitKeyChanged, TokenExpired
    │   └── VersionConflict
    └── PermanentError      it will not, until something changes
        ├── UsageError      the caller asked for something that cannot be (exit code 2)
        │   └── Malformed, Unknown, AlreadyExists, NotAllowed, Unreadable
        ├── SignInFailed, ReleaseRefused, EnvelopeRejected, ActivationLost, ProtocolViolation
        ├── SealBroken, SecretMissing, CheckpointRejected
        └── EventUnreadable, StateVersionMismatch, StorageFull, PortInUse

Facts travel in `args`, so that an error survives pickling between processes; the sentence is computed when it is shown.
"""

from __future__ import annotations

from typing import ClassVar


class TenantryError(Exception):
    """The root. `sentence` is formatted with `args`: what happened, why, what to do."""

    sentence: ClassVar[str] = "{0}"

    def __str__(self) -> str:
        return self.sentence.format(*self.args)


class TransientError(TenantryError):
    """The same call may succeed later."""


class PermanentError(TenantryError):
    """The same call fails again until something changes."""


class UsageError(PermanentError):
    """The caller asked for something that cannot be."""


class Malformed(UsageError):
    """(what, value, expected)"""

    sentence = "{1!r} is not a {0}: expected {2}."


class Unknown(UsageError):
    """(what, value, what to do)"""

    sentence = "There is no {0} {1!r}. {2}"


class AlreadyExists(UsageError):
    """(what, value, what to do)"""

    sentence = "{0} {1!r} already exists. {2}"


class NotAllowed(UsageError):
    """(command, why, what to do)"""

    sentence = "Cannot {0}: {1}. {2}"


class Unreadable(UsageError):
    """(what, path, why, what to do)"""

    sentence = "Cannot read the {0} {1}: {2}. {3}"


class VersionConflict(TransientError):
    """(stream, expected version). Somebody else appended first."""

    sentence = "Stream {0} is past version {1}: somebody else appended first. Read it again and decide anew."


class StoreUnavailable(TransientError):
    """(which store, why)"""

    sentence = "The {0} does not answer: {1}. Nothing was released or counted; try again when it is back."


class StoreReplaced(StoreUnavailable):
    """(path, why)"""

    sentence = (
        "The event store {0} is not the file that was opened: {1}. Nothing was released or counted; put it in its "
        "place, and do this again."
    )


class KeyholderUnavailable(TransientError):
    """(why)"""

    sentence = "The keyholder does not answer: {0}. Its log is keyholder.log in the state directory."


class Throttled(TransientError):
    """(workload, seconds to wait)"""

    sentence = "{0} asks for fewer requests; next try in {1:.1f} s."


class ServiceUnavailable(TransientError):
    """(workload, HTTP status, detail)"""

    sentence = "{0} answered {1}: {2}."


class ConnectionLost(TransientError):
    """(workload, why)"""

    sentence = "The connection to {0} was lost: {1}."


class CollectorLost(TransientError):
    """(collector, why)"""

    sentence = "Collector {0} died: {1}. Its collections go on from their last batch."


class SignInFailed(PermanentError):
    """(AADSTS code or 0, category, sentence, remedy). Categories: `collectors.aadsts.Category`."""

    sentence = "Sign-in failed: {2} {3}"


class ReleaseRefused(PermanentError):
    """(credential or data key, why)"""

    sentence = "{0} is not released: {1}."


class EnvelopeRejected(PermanentError):
    """(why)"""

    sentence = "The envelope is rejected: {0}. Seal the credential again with the current public key."


class SealBroken(PermanentError):
    """(what, why)"""

    sentence = "The sealed {0} cannot be opened: {1}. It was changed, moved, or sealed to another key."


class SecretMissing(PermanentError):
    """(name)"""

    sentence = "The secret store holds no {0!r}."


class CheckpointRejected(PermanentError):
    """(why)"""

    sentence = "The checkpoint is rejected: {0}. Compare it with the ledger's public key and an exported checkpoint."


class ActivationLost(PermanentError):
    """(tenant, epoch). Another activation serves the tenant; this one must end."""

    sentence = "Activation {1} of tenant {0} is over: another one serves the tenant."


class ProtocolViolation(PermanentError):
    """(workload, what). The service answered something its protocol does not allow."""

    sentence = "{0} answered what its protocol does not allow: {1}."


class EventUnreadable(PermanentError):
    """(stream, version, stored name, why)"""

    sentence = "Event {1} of stream {0} ({2}) cannot be read: {3}. Run `tenantry audit verify`."


class StateVersionMismatch(PermanentError):
    """(directory, found, supported)"""

    sentence = (
        "State directory {0} has version {1}, this program supports {2}. Use the matching release or another --state."
    )


class StorageFull(PermanentError):
    """(path, why)"""

    sentence = "Cannot write {0}: {1}. Nothing of it was kept; free space and run again."


class PortInUse(PermanentError):
    """(port)"""

    sentence = "Port {0} is in use. Choose another with --port, or 0 for a free one."


class TransitKeyChanged(TransientError):
    """(collector). It was restarted and cannot open what was sealed to its former self."""

    sentence = "Collector {0} has a new transit key: seal to it again."


class TokenExpired(TransientError):
    """(workload). The service no longer takes the access token: get a fresh one and ask again."""

    sentence = "{0} no longer takes the access token; a fresh one is needed."
