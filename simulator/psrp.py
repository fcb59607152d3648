"""One runspace pool of an Exchange Server: PowerShell remoting ([MS-PSRP]) without I/O and without a clock of its own.

`Shell` takes the bytes a client sent and gives the bytes it is owed. Control messages are psrpcore's; rows are written
as CLIXML when they are asked for, so a pipeline of any length holds no more than one answer in memory.
The runspace is in no-language mode: it runs the cmdlets of the table and `Select-Object`, and no script.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID
from xml.etree.ElementTree import ParseError

from psrpcore import (
    CreatePipelineEvent,
    GetAvailableRunspacesEvent,
    GetCommandMetadataEvent,
    PSRPCoreError,
    PSRPPayload,
    ResetRunspaceStateEvent,
    ServerPipeline,
    ServerRunspacePool,
    SetMaxRunspacesEvent,
    SetMinRunspacesEvent,
    StreamType,
)
from psrpcore.types import (
    ErrorCategory,
    ErrorCategoryInfo,
    ErrorRecord,
    NETException,
    PipelineState,
    PSInvocationState,
    PSRPMessageType,
)

from simulator import clixml
from simulator.cmdlets import REFUSALS, SERVER, CmdletRefused, Result, call
from simulator.mailboxes import Row
from simulator.world import Tenant

FRAGMENT_BYTES = 16 * 1024
MOST_INPUT_BYTES = 8 << 20
MOST_PIPELINES = 64
FIRST_ROW_OBJECT = 1 << 40
"""Object ids of rows start here, far from those psrpcore counts up from 1."""
TO_CLIENT = 1
FRAGMENT_HEAD = struct.Struct(">QQBI")

NO_SCRIPTS = (
    "The syntax is not supported by this runspace. This can occur if the runspace is in no-language mode.",
    "System.Management.Automation.ParseException",
    "ScriptsNotAllowed",
)


class Malformed(Exception):
    """What the client sent is not PSRP. args: why."""


class NoSuchCommand(LookupError):
    """The shell has no such pipeline. args: its id."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Bytes owed to the client, and whether they are the last of their pipeline."""

    data: bytes
    done: bool


@dataclass(slots=True)
class Run:
    """A pipeline that was asked for: its rows still to come, and the fragments that are ready."""

    pipeline: ServerPipeline
    cmdlet: str = "unknown"
    rows: Iterator[bytes] = field(default_factory=lambda: iter(()))
    ready: deque[bytes] = field(default_factory=deque)
    ready_at: float = 0.0
    received_bytes: int = 0
    started: bool = False
    ended: bool = False


class Shell:
    """A runspace pool with its pipelines.

    The tenant's setting `psrp_latency_seconds` maps a cmdlet's lower-case name, or `*`, to the time until its first
    row.
    """

    def __init__(self, tenant: Tenant, creation: bytes) -> None:
        self.tenant = tenant
        self._pool = ServerRunspacePool()
        self._runs: dict[UUID, Run] = {}
        self._ready: deque[bytes] = deque()
        self._row_object = FIRST_ROW_OBJECT
        self._feed(creation, None, 0.0)

    def command(self, command_id: UUID, data: bytes, now: float) -> None:
        """Begin a pipeline with the first bytes of its description; more may follow through `send`."""
        for ended in [known for known, run in self._runs.items() if run.ended]:
            if len(self._runs) >= MOST_PIPELINES:
                self.drop(ended)
        if len(self._runs) >= MOST_PIPELINES:
            raise Malformed(f"more than {MOST_PIPELINES} pipelines")
        self._runs[command_id] = Run(ServerPipeline(self._pool, command_id))
        self.send(command_id, data, now)

    def send(self, command_id: UUID | None, data: bytes, now: float) -> None:
        """More bytes for the pool or a pipeline; raises Malformed, NoSuchCommand."""
        if command_id is not None:
            run = self._run(command_id)
            run.received_bytes += len(data)
            if run.received_bytes > MOST_INPUT_BYTES:
                raise Malformed(f"more than {MOST_INPUT_BYTES} bytes of input")
        self._feed(data, command_id, now)

    def cmdlet(self, command_id: UUID) -> str:
        """Lower-case name of the cmdlet a pipeline runs."""
        run = self._runs.get(command_id)
        return run.cmdlet if run else "unknown"

    def take(self, command_id: UUID | None, room: int, now: float) -> Delivery:
        """What is owed to the pool (None) or a pipeline, up to `room` bytes; empty when there is nothing yet."""
        run = None if command_id is None else self._run(command_id)
        ready = self._ready if run is None else run.ready
        data = bytearray()
        while True:
            while ready and len(data) + len(ready[0]) <= room:
                data += ready.popleft()
            if ready or run is None or not self._advance(run, now):
                break
        done = run is not None and run.ended and not ready
        if done and command_id is not None:
            self.drop(command_id)
        return Delivery(bytes(data), done)

    def wait_seconds(self, command_id: UUID | None, now: float) -> float | None:
        """How long until `take` may give something; None when only another request can bring that about."""
        run = self._runs.get(command_id) if command_id is not None else None
        return run.ready_at - now if run is not None and run.started and run.ready_at > now else None

    def warn(self, command_id: UUID, text: str) -> None:
        """Write a warning into a running pipeline."""
        run = self._run(command_id)
        if run.pipeline.state == PSInvocationState.Running:
            run.pipeline.write_warning(text)
            self._collect()

    def fail(self, command_id: UUID, text: str) -> None:
        """End a running pipeline with a terminating error."""
        run = self._run(command_id)
        if run.pipeline.state == PSInvocationState.Running:
            self._end(run, text, "Microsoft.Exchange.Data.Directory.ADTransientException", "ADTransientException")

    def stop(self, command_id: UUID) -> None:
        """End a pipeline as its client asked; what it had to show is forgotten."""
        run = self._runs.get(command_id)
        if run is None or run.ended:
            return
        run.ready.clear()
        if run.pipeline.state == PSInvocationState.Running:
            run.pipeline.begin_stop()
            run.pipeline.stop()
            self._collect()
        run.ended = True

    def drop(self, command_id: UUID) -> None:
        """Forget a pipeline."""
        self._runs.pop(command_id, None)
        self._pool.pipeline_table.pop(command_id, None)

    def _run(self, command_id: UUID) -> Run:
        if command_id not in self._runs:
            raise NoSuchCommand(command_id)
        return self._runs[command_id]

    def _feed(self, data: bytes, command_id: UUID | None, now: float) -> None:
        try:
            self._pool.receive_data(PSRPPayload(data, StreamType.default, command_id))
            while (event := self._pool.next_event()) is not None:
                match event:
                    case CreatePipelineEvent():
                        self._start(self._run(event.pipeline_id), event.pipeline.commands, now)
                    case GetCommandMetadataEvent():
                        self._refuse_metadata(self._run(event.pipeline_id))
                    case GetAvailableRunspacesEvent():
                        self._pool.runspace_availability_response(event.ci, self._pool.max_runspaces - len(self._runs))
                    case SetMaxRunspacesEvent() | SetMinRunspacesEvent() | ResetRunspaceStateEvent():
                        self._pool.runspace_availability_response(event.ci, True)
                    case _:
                        pass
        except (PSRPCoreError, ParseError, ValueError, KeyError, AttributeError, struct.error) as error:
            raise Malformed(str(error)) from error
        self._collect()

    def _start(self, run: Run, commands: list[Any], now: float) -> None:
        run.started = True
        run.pipeline.start()
        first = commands[0]
        if any(command.is_script for command in commands):
            self._end(run, *NO_SCRIPTS)
            return
        run.cmdlet = first.command_text.lower()
        latency = self.tenant.settings.get("psrp_latency_seconds", {})
        run.ready_at = now + float(latency.get(run.cmdlet, latency.get("*", 0.0)))
        try:
            result = call(SERVER, self.tenant, first.command_text, _parameters(first))
            projection = _projection(commands[1:])
        except CmdletRefused as error:
            self._refuse(run, first.command_text, error)
            return
        for warning in result.warnings:
            run.pipeline.write_warning(warning)
        run.rows = _documents(self.tenant, result, projection)

    def _refuse(self, run: Run, name: str, error: CmdletRefused) -> None:
        exception = REFUSALS[error.kind].exception
        reason = exception.rpartition(".")[2]
        if REFUSALS[error.kind].terminating:
            self._end(run, str(error), exception, reason)
            return
        run.pipeline.write_error(
            _exception(str(error), exception),
            category_info=ErrorCategoryInfo(Category=ErrorCategory.NotSpecified, Activity=name, Reason=reason),
            fully_qualified_error_id=f"[FailureCategory=Cmdlet-{reason}] {exception}",
        )

    def _refuse_metadata(self, run: Run) -> None:
        run.started = True
        run.pipeline.start()
        reason = "CommandNotFoundException"
        self._end(run, "Command metadata is not offered here.", f"System.Management.Automation.{reason}", reason)

    def _end(self, run: Run, text: str, exception: str, error_id: str) -> None:
        """End the pipeline as failed, which psrpcore has a state for but no method."""
        record = ErrorRecord(
            Exception=_exception(text, exception),
            CategoryInfo=ErrorCategoryInfo(Category=ErrorCategory.NotSpecified, Reason=exception.rpartition(".")[2]),
            FullyQualifiedErrorId=error_id,
        )
        run.pipeline.prepare_message(
            PipelineState(PipelineState=PSInvocationState.Failed.value, ExceptionAsErrorRecord=record)
        )
        run.pipeline.state = PSInvocationState.Failed
        run.rows = iter(())
        self._collect()

    def _advance(self, run: Run, now: float) -> bool:
        """Make the pipeline's next fragments ready; False when there are none, or none yet."""
        if not run.started or run.ended or run.ready_at > now:
            return False
        row = next(run.rows, None)
        if row is not None:
            run.ready.extend(self._row_fragments(run, row))
            return True
        if run.pipeline.state == PSInvocationState.Running:
            run.pipeline.complete()
            self._collect()
        run.ended = True
        return bool(run.ready)

    def _row_fragments(self, run: Run, row: bytes) -> Iterator[bytes]:
        kind = struct.pack("<iI", TO_CLIENT, PSRPMessageType.PipelineOutput.value)
        message = kind + self._pool.runspace_pool_id.bytes_le + run.pipeline.pipeline_id.bytes_le + row
        self._row_object += 1
        most = FRAGMENT_BYTES - FRAGMENT_HEAD.size
        for number, start in enumerate(range(0, len(message), most)):
            part = message[start : start + most]
            marks = (number == 0) | (start + most >= len(message)) << 1
            yield FRAGMENT_HEAD.pack(self._row_object, number, marks, len(part)) + part

    def _collect(self) -> None:
        """Hand psrpcore's own messages to those they are for."""
        while (payload := self._pool.data_to_send(FRAGMENT_BYTES)) is not None:
            run = self._runs.get(payload.pipeline_id) if payload.pipeline_id else None
            (run.ready if run else self._ready).append(payload.data)


def _exception(text: str, type_name: str) -> NETException:
    exception = NETException(Message=text, HResult=-2146233088)
    exception.PSObject.type_names = [type_name, "System.Exception", "System.Object"]
    return exception


def _parameters(command: Any) -> dict[str, Any]:
    """The command's parameters; one without a value is a switch, one without a name is the identity."""
    return {
        str(name or "Identity").lstrip("-").rstrip(":"): True if value is None else value
        for name, value in command.parameters
    }


@dataclass(frozen=True, slots=True)
class Projection:
    """What `Select-Object` behind the cmdlet keeps."""

    properties: tuple[str, ...] = ()
    first: int | None = None


def _projection(commands: list[Any]) -> Projection:
    properties: tuple[str, ...] = ()
    first: int | None = None
    for command in commands:
        if command.command_text.lower() != "select-object":
            raise CmdletRefused(
                "unknown-cmdlet", f"The term '{command.command_text}' is not recognized as the name of a cmdlet."
            )
        given: Mapping[str, Any] = {(name or "Property").lower(): value for name, value in command.parameters}
        wanted = given.get("property", ())
        properties = (str(wanted),) if isinstance(wanted, str) else tuple(str(name) for name in wanted) or properties
        first = int(given["first"]) if "first" in given else first
    return Projection(properties, first)


def _documents(tenant: Tenant, result: Result, projection: Projection) -> Iterator[bytes]:
    name = result.cmdlet.type_name
    types = (name, "Microsoft.Exchange.Data.Directory.ADPresentationObject", "System.Object")
    if projection.properties:
        types = (f"Selected.{name}", "System.Management.Automation.PSCustomObject", "System.Object")
    for subject in result.subjects[: projection.first]:
        row: Row = result.row(tenant, subject)
        if projection.properties:
            row = {column: row.get(column) for column in projection.properties}
        yield clixml.document(types, row)
