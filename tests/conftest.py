"""One Ray cluster and one estate for the whole session: starting them takes longer than most tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from estate import Estate
from running import Running
from truth import SMALL_PAGES

from actors.system import VARIABLES

os.environ.update(VARIABLES)
"""Before anything imports Ray: some tests do so without a system."""
BATCH_BYTES = 4_000
"""So small that a dataset of some pages has some batches."""


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    from actors.system import System
    from cli.state import stop_keyholder
    from simulator.server import Simulator
    from simulator.world import World

    directory = tmp_path_factory.mktemp("running")
    with Simulator(World()) as simulator:
        estate = Estate(simulator, directory / "state", {"catalog": str(SMALL_PAGES)})
        with System(estate.settings, batch_bytes=BATCH_BYTES) as system:
            yield Running(estate, system)
        estate.state.keyholder.close()
        stop_keyholder(estate.settings)
        estate.state.store.close()
