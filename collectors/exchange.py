"""Readers of Exchange: cmdlets over the admin REST API, and over remote PowerShell of an Exchange Server.

REST pages are read by sending the same body to the next link again, with the same anchor from the first call on (the
link names the server that holds the walk). A warning or an error beside the rows means that some are missing: it ends
the collection truncated.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from collectors.asking import AskingReader
from collectors.dataset import Dataset
from collectors.pages import Page
from collectors.paging import PagedReader
from collectors.reader import Place, Request, Response
from collectors.work import Assignment, Complete, NotPossible, Truncated
from domain.errors import ProtocolViolation

SYSTEM_MAILBOX = "SystemMailbox{bb558c35-97f1-4cb9-8ff7-d53741dc928c}"
"""Arbitration mailbox that app-only calls are routed by."""


def command_url(dataset: Dataset, assignment: Assignment) -> str:
    url = f"{assignment.cloud.exchange}/adminapi/beta/{assignment.tenant}/InvokeCommand"
    return f"{url}?$select={quote(','.join(dataset.select), safe=',')}" if dataset.select else url


def command_body(dataset: Dataset, **more: str) -> dict[str, Any]:
    return {"CmdletInput": {"CmdletName": dataset.cmdlet, "Parameters": {**dataset.parameters, **more}}}


def command_headers(dataset: Dataset, assignment: Assignment) -> dict[str, str]:
    size = f"odata.maxpagesize={dataset.page_size or 1000}"
    return {
        "Accept": "application/json",
        "Content-Type": "application/json; charset=utf-8",
        "Prefer": size,
        "X-AnchorMailbox": f"APP:{SYSTEM_MAILBOX}@{assignment.tenant}",
        "X-CmdletName": dataset.cmdlet,
        "X-ResponseFormat": "json",
    }


class ExchangeList(PagedReader):
    """The objects a cmdlet returns."""

    def __init__(self, dataset: Dataset, assignment: Assignment) -> None:
        super().__init__(dataset, assignment, assignment.cloud.exchange)
        self._body = msgspec.json.encode(command_body(dataset))
        self._headers = command_headers(dataset, assignment)
        self._url = command_url(dataset, assignment)

    def request(self, place: Place) -> Request:
        return Request(
            method="POST",
            url=place.link or self._url,
            headers=self._headers,
            body=self._body,
            workload="exchange",
            tenant=self.assignment.tenant,
            bucket=self.dataset.throttled_by,
            cost=self.dataset.cost,
        )

    def finish(self, page: Page, place: Place) -> Place:
        end = Truncated("warned", f"Exchange warned: {place.warned}") if place.warned else Complete()
        return msgspec.structs.replace(place, end=end)


class ShellAnswer(msgspec.Struct):
    """What `collectors.psrp` puts into a response's body. `failed`: the pipeline ended before its time."""

    rows: list[msgspec.Raw]
    warnings: list[str] = []
    errors: list[str] = []
    failed: bool = False


class ExchangeServerList(AskingReader):
    """The objects a cmdlet returns on an Exchange Server: one answer, no pages."""

    def __init__(self, dataset: Dataset, assignment: Assignment) -> None:
        super().__init__(dataset, assignment)
        if assignment.exchange_server is None:
            self.end = NotPossible(
                "no-endpoint", f"{dataset.name} needs an Exchange Server, and the tenant names none."
            )

    def request(self, place: Place) -> Request:
        asked = {
            "cmdlet": self.dataset.cmdlet,
            "parameters": self.dataset.parameters,
            "select": list(self.dataset.select),
        }
        server = self.assignment.exchange_server
        return Request(
            method="POST",
            url=f"https://{server.host}/{server.path}" if server else "",
            headers={},
            body=msgspec.json.encode(asked),
            workload="exchange-server",
            tenant=self.assignment.tenant,
            bucket=self.dataset.throttled_by,
            cost=self.dataset.cost,
            authorized=False,
        )

    def receive(self, response: Response) -> list[bytes]:
        try:
            answer = msgspec.json.decode(response.body, type=ShellAnswer)
        except msgspec.DecodeError as error:
            raise ProtocolViolation("exchange-server", "an answer of another form") from error
        said = " ".join(answer.errors or answer.warnings)
        unknown = any("is not recognized as" in text for text in answer.errors)
        if unknown and not answer.rows:
            needed = f"{self.dataset.name} needs {self.dataset.permission}. {said[:200]}"
            self.conclude(NotPossible("not-permitted", needed))
        elif answer.errors or answer.failed:
            self.conclude(Truncated("cmdlet-failed", f"The server said: {said[:250]}"))
        elif answer.warnings:
            self.conclude(Truncated("warned", f"The server warned: {said[:250]}"))
        else:
            self.conclude(Complete())
        return [bytes(row) for row in answer.rows]
