"""Opens what the settings name. The event key comes from the secret store, never from a setting."""

from __future__ import annotations

from crypto.opening import open_secret_store
from crypto.stores import EVENT_KEY
from domain.settings import Settings
from eventstore.store import EventStore, open_event_store


def open_store(settings: Settings) -> EventStore:
    """The event store with its key. Raises what the stores raise."""
    return open_event_store(settings.eventstore, open_secret_store(settings).get(EVENT_KEY))
