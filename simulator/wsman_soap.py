"""WS-Management envelopes ([MS-WSMV], DSP0226): reading a request's, writing an answer's or a fault's. No I/O."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

MOST_ENVELOPE_BYTES = 512_000
ENVELOPE_OVERHEAD_BYTES = 4_096

SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
CONFIG = "http://schemas.microsoft.com/wbem/wsman/1/config"
POWERSHELL = "http://schemas.microsoft.com/powershell"
NAMES: dict[str, str] = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "p": "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd",
    "x": TRANSFER,
    "rsp": SHELL,
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
    "cfg": CONFIG,
    "pwsh": POWERSHELL,
}
ANONYMOUS = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
DECLARATIONS = " ".join(f"xmlns:{prefix}={quoteattr(uri)}" for prefix, uri in NAMES.items() if prefix != "pwsh")
DURATION = re.compile(r"-?P(?:(\d+)D)?T?(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?")


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One fault of wsmerror.h: its code, who is to blame, its SOAP subcode and its sentence."""

    code: int
    blame: str
    subcode: str
    text: str


FAULTS: Mapping[str, FaultKind] = {
    "timed-out": FaultKind(
        0x80338029,
        "Receiver",
        "w:TimedOut",
        "The WS-Management service cannot complete the operation within the time specified in OperationTimeout.",
    ),
    "no-shell": FaultKind(
        0x8033805B,
        "Sender",
        "w:InvalidSelectors",
        "The request for the Windows Remote Shell with ShellId {0} failed because the shell was not found on the"
        " server. Possible causes are: the specified ShellId is incorrect or the shell no longer exists on the server.",
    ),
    "no-command": FaultKind(
        0x8033805B,
        "Sender",
        "w:InvalidSelectors",
        "The Windows Remote Shell received a request to perform an operation on a command identifier that does not"
        " exist: {0}.",
    ),
    "quota": FaultKind(
        0x803381A5,
        "Receiver",
        "w:QuotaLimit",
        "[FailureCategory=AuthZ-AuthorizationException] Fail to create a runspace because you have exceeded the maximum"
        " number of connections allowed : {0} for the policy party : MaxConcurrency. Please close existing runspace and"
        " try again. Policy: CN=GlobalThrottlingPolicy",
    ),
    "no-action": FaultKind(
        0x80338013,
        "Sender",
        "a:ActionNotSupported",
        "The WS-Management service does not support the action specified in the request.",
    ),
    "no-resource": FaultKind(
        0x8033803B,
        "Sender",
        "w:InvalidResourceURI",
        "The WS-Management service cannot process the request. The resource URI is missing or it has an incorrect"
        " format.",
    ),
    "envelope-too-large": FaultKind(
        0x80338048,
        "Sender",
        "w:EncodingLimit",
        "The WS-Management service cannot process the request because its envelope exceeds {0} bytes.",
    ),
    "envelope-too-small": FaultKind(
        0x80338049,
        "Sender",
        "w:EncodingLimit",
        "The response that the WS-Management service computed exceeds the MaxEnvelopeSize of the request.",
    ),
    "malformed": FaultKind(
        0x80338041, "Sender", "w:SchemaValidationError", "The SOAP XML in the message does not match the schema: {0}"
    ),
}


class Fault(Exception):
    """The answer is a fault. args: its name in `FAULTS`, and what its sentence mentions."""

    def __str__(self) -> str:
        return FAULTS[self.args[0]].text.format(*self.args[1:])


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request as read. `action` is the last part of its URI; `room` is how many bytes an answer may carry."""

    message_id: str
    action: str
    resource: str
    shell_id: str | None
    timeout_seconds: float
    room: int
    body: ET.Element


def read(content: bytes) -> Envelope:
    """The envelope in a request; raises Fault."""
    if b"<!DOCTYPE" in content:
        raise Fault("malformed", "a document type is not allowed")
    try:
        root = ET.fromstring(content)  # noqa: S314 - bounded, and refused above when it declares entities
    except ET.ParseError as error:
        raise Fault("malformed", str(error)) from error
    body = root.find("s:Body", NAMES)
    if body is None:
        raise Fault("malformed", "there is no Body")
    largest = _header(root, "w:MaxEnvelopeSize")
    envelope_bytes = min(int(largest) if largest.isdecimal() else 153_600, MOST_ENVELOPE_BYTES)
    selectors = root.findall("s:Header/w:SelectorSet/w:Selector", NAMES)
    return Envelope(
        message_id=_header(root, "a:MessageID"),
        action=_header(root, "a:Action").rpartition("/")[2],
        resource=_header(root, "w:ResourceURI"),
        shell_id=next((s.text for s in selectors if s.get("Name") == "ShellId"), None),
        timeout_seconds=seconds(_header(root, "w:OperationTimeout"), 60.0),
        room=(envelope_bytes - ENVELOPE_OVERHEAD_BYTES) * 3 // 4,
        body=body,
    )


def _header(root: ET.Element, path: str) -> str:
    return (root.findtext(f"s:Header/{path}", "", NAMES) or "").strip()


def seconds(duration: str, default: float) -> float:
    """An XML duration of days and less, as seconds; bounded by a day."""
    match = DURATION.fullmatch(duration)
    if match is None or not any(match.groups()):
        return default
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return min(days * 86_400 + hours * 3_600 + minutes * 60 + rest, 86_400.0)


def decoded(text: str | None) -> bytes:
    """The bytes of a base64 element; raises Fault."""
    try:
        return base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Fault("malformed", str(error)) from error


def answer(request: Envelope, body: str) -> bytes:
    """The answer to a request, with `body` as the content of its Body."""
    prefix = TRANSFER if request.action in ("Create", "Delete", "Get") else SHELL
    return _envelope(f"{prefix}/{request.action}Response", request.message_id, body)


def fault(message_id: str, error: Fault) -> bytes:
    kind = FAULTS[error.args[0]]
    text = escape(str(error))
    body = (
        f"<s:Fault><s:Code><s:Value>s:{kind.blame}</s:Value><s:Subcode><s:Value>{kind.subcode}</s:Value></s:Subcode>"
        f'</s:Code><s:Reason><s:Text xml:lang="en-US">{text}</s:Text></s:Reason><s:Detail>'
        f'<f:WSManFault Code="{kind.code}" Machine="localhost"><f:Message>{text}</f:Message></f:WSManFault>'
        "</s:Detail></s:Fault>"
    )
    return _envelope("http://schemas.dmtf.org/wbem/wsman/1/wsman/fault", message_id, body)


def _envelope(action: str, relates_to: str, body: str) -> bytes:
    return (
        f'<s:Envelope xml:lang="en-US" {DECLARATIONS}><s:Header><a:Action>{action}</a:Action>'
        f"<a:MessageID>uuid:{str(uuid4()).upper()}</a:MessageID><a:To>{ANONYMOUS}</a:To>"
        f"<a:RelatesTo>{escape(relates_to)}</a:RelatesTo></s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def stream(data: bytes, command_id: str | None, done: bool) -> str:
    """The content of a ReceiveResponse; `command_id` is None for the pool's own stream."""
    of_command = f" CommandId={quoteattr(command_id)}" if command_id else ""
    content = base64.b64encode(data).decode()
    state = ""
    if command_id:
        state = f'<rsp:CommandState{of_command} State="{SHELL}/CommandState/{"Done" if done else "Running"}">'
        state += f"{'<rsp:ExitCode>0</rsp:ExitCode>' if done else ''}</rsp:CommandState>"
    shown = f'<rsp:Stream Name="stdout"{of_command}>{content}</rsp:Stream>{state}'
    return f"<rsp:ReceiveResponse>{shown}</rsp:ReceiveResponse>"
