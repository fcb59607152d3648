"""The composition root: starts Ray, builds every actor and connects them. Importing it does nothing."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from actors.build import build_of
from collectors.session import LIMIT_BYTES
from domain.errors import PermanentError
from domain.settings import Settings, without_secrets

if TYPE_CHECKING:
    from ray import ObjectRef

NAMESPACE = "tenantry"
OBJECT_STORE_BYTES = 80 << 20
"""Little more than Ray's minimum: rows never travel through it."""
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "OMP_NUM_THREADS": "1",
}
"""Ray reads these when it is imported. Without the last one each worker sizes its thread pools by the machine."""


class RayUnavailable(PermanentError):
    """(address, why)"""

    sentence = "Ray at {0!r} cannot be used: {1}. Check [ray] address, the token and `ray status`."


class OtherBuild(PermanentError):
    """(actors, address)"""

    sentence = (
        "{0} on Ray at {1!r} run other code, or have other settings, than this command. Install the same wheel on "
        "every node, and stop them with `ray stop` before settings or catalog change."
    )


class System:
    """The running actors. `with System(settings) as system:` starts and stops them on one machine.

    `batch_bytes`: rows of one batch before compression.
    """

    def __init__(self, settings: Settings, *, batch_bytes: int = LIMIT_BYTES) -> None:
        self._settings = settings
        self._place = without_secrets(settings.ray_address)
        self._batch_bytes = batch_bytes
        self._work: ObjectRef[None] | None = None
        self._actors: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if "ray" in sys.modules and not VARIABLES.keys() <= os.environ.keys():
            raise RayUnavailable(self._place, "something imported it before its variables were set")
        for name, value in VARIABLES.items():
            os.environ.setdefault(name, value)
        if self._settings.ray_address == "local":
            os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(_token_file(self._settings)))
        import ray
        from ray.exceptions import RayError

        self._on_termination = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**self._arguments())
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise RayUnavailable(self._place, str(error).partition("\n")[0][:300]) from error
        try:
            self._build()
            if self._settings.ray_address != "local":
                self._compare()
        except BaseException:
            self._shut_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shut_down()

    def _shut_down(self) -> None:
        """Ray takes SIGTERM for itself, and leaves it to end the process at once."""
        import ray

        ray.shutdown()
        signal.signal(signal.SIGTERM, self._on_termination)

    def _arguments(self) -> dict[str, Any]:
        common = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        if self._settings.ray_address != "local":
            return {**common, "address": self._settings.ray_address}
        return {
            **common,
            "address": "local",
            "include_dashboard": False,
            "num_cpus": os.cpu_count(),
            "resources": {"vault": 1},
            "object_store_memory": OBJECT_STORE_BYTES,
        }

    def _build(self) -> None:
        from actors.remote import shells

        settings, classes = self._settings, shells()

        def actor(shell: str, name: str, *arguments: Any) -> Any:
            options = {"name": name, "lifetime": "detached", "get_if_exists": True}
            made = self._actors[name] = classes[shell].options(**options).remote(settings, *arguments)
            return made

        vault = actor("vault", "vault")
        graph = [
            actor("graph", f"graph-{n}", f"graph-{n}", self._batch_bytes) for n in range(settings.graph_collectors)
        ]
        powershell = [
            actor("powershell", f"powershell-{n}", f"powershell-{n}", self._batch_bytes)
            for n in range(settings.powershell_collectors)
        ]
        tenants = [actor("tenant", f"tenant-{n}", f"tenant-{n}", vault) for n in range(settings.tenant_actors)]
        actor("supervisor", "supervisor", tenants, graph, powershell)

    def _compare(self) -> None:
        """Actors may be on other nodes, and of an earlier command. Raises `OtherBuild`, or `RayUnavailable`."""
        own = build_of(self._settings)
        if other := sorted(name for name, build in self._told("build").items() if build != own):
            raise OtherBuild(", ".join(other), self._place)

    def _told(self, method: str) -> dict[str, Any]:
        """The answer of each actor by its name."""
        import ray
        from ray.exceptions import RayError

        names = list(self._actors)
        try:
            answers = ray.get([getattr(self._actors[name], method).remote() for name in names])
        except RayError as error:
            raise RayUnavailable(self._place, type(error).__name__) from None
        return dict(zip(names, answers, strict=True))

    def work(self, *, until_idle: bool) -> None:
        """Lets the supervisor carry out what is requested; returns at once."""
        self._work = self._actors["supervisor"].work.remote(until_idle)

    def ended(self, timeout_seconds: float) -> bool:
        """Waits at most so long for the work to end; raises what the supervisor raised, or `RayUnavailable`."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        from actors.remote import original

        if self._work is None:
            return True
        try:
            done, _ = ray.wait([self._work], timeout=timeout_seconds)
            if done:
                ray.get(self._work)
        except RayTaskError as error:
            raise original(error) from None
        except RayError as error:
            raise RayUnavailable(self._place, type(error).__name__) from None
        if not done and (died := dead_processes()):
            raise RayUnavailable(self._place, f"{', '.join(died)} died; run `tenantry collect` again")
        return bool(done)

    def pids(self) -> dict[str, int]:
        """Process id of each actor by its name."""
        return self._told("pid")


def dead_processes() -> list[str]:
    """Kinds of the processes of Ray that this one started and that are gone. Ray itself waits for them for ever."""
    from ray._private import worker

    node = worker._global_node
    return [] if node is None else sorted({str(kind) for kind, _ in node.dead_processes()})


def _token_file(settings: Settings) -> Path:
    """A cluster token of this state directory, made once, whole, readable by its owner only."""
    path = Path(settings.state) / "ray-token"
    if path.exists():
        return path
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()
    return path
