"""The reader of usage reports: a redirect to a file that is fetched without the access token, then CSV.

The address of the file opens it for anyone for some minutes. It stays in memory: no cursor carries it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence

import msgspec

from collectors.asking import AskingReader
from collectors.dataset import Dataset
from collectors.graph import ask, first_url
from collectors.reader import Place, Request, Response
from collectors.work import Assignment, Complete
from domain.errors import ProtocolViolation
from domain.ids import key_names

REDIRECTS = (301, 302, 303, 307, 308)
MOST_COLUMNS = 256
_ADDRESS = re.compile(r"https://[A-Za-z0-9.-]+(:\d{1,5})?/[!-~]{0,8192}")


class GraphReport(AskingReader):
    """One report. Each row becomes a JSON object with the column names of the header and strings as values."""

    def __init__(self, dataset: Dataset, assignment: Assignment) -> None:
        super().__init__(dataset, assignment)
        self._file: str | None = None

    def request(self, place: Place) -> Request:
        if self._file is None:
            request = ask(self.dataset, self.assignment, first_url(self.dataset, self.assignment.cloud.graph))
            return msgspec.structs.replace(
                request, headers={**request.headers, "Accept": "*/*"}, bucket=f"{request.bucket}/{self.dataset.name}"
            )
        return Request(
            method="GET",
            url=self._file,
            headers={},
            workload="graph",
            tenant=self.assignment.tenant,
            bucket="download",
            cost=1,
            authorized=False,
        )

    def receive(self, response: Response) -> list[bytes]:
        if self._file is None and response.status in REDIRECTS:
            self._redirect(response.headers.get("location", ""))
            return []
        if response.status != 200:
            if self._file is None:
                self.refuse(response.status, response.body)
            else:  # the address has expired: ask for a new one
                self._file = None
                self.doubt(f"The report's file was answered with HTTP {response.status}.", "unavailable")
            return []
        try:
            rows = csv_rows(response.body, key_names(self.dataset.key))
        except ProtocolViolation as violation:
            self._file = None
            self.doubt(str(violation))
            return []
        self.conclude(Complete())
        return rows

    def _redirect(self, location: str) -> None:
        if _ADDRESS.fullmatch(location):
            self._file = location
        else:
            self.doubt("A report redirected to no HTTPS address.")


def is_header(names: Sequence[str]) -> bool:
    """Whether these can be the names of columns: each there, each once, each printable."""
    return (
        0 < len(names) <= MOST_COLUMNS
        and len(set(names)) == len(names)
        and all(name.strip() and name.isprintable() for name in names)
    )


def csv_rows(body: bytes, columns: Collection[str]) -> list[bytes]:
    """CSV in UTF-8, with or without a byte order mark, whose header line names at least `columns`.

    Raises `ProtocolViolation`: an error page or a sentence would be a header line without rows.
    """
    try:
        lines = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        header = next(lines, [])
        if not is_header(header) or not {*columns} <= {*header}:
            raise ProtocolViolation("graph", "a report without the header line of its columns")
        rows = []
        for line in lines:
            if not line and len(header) > 1:  # an empty line
                continue
            if len(line) != len(header):
                raise ProtocolViolation("graph", f"a report whose line {lines.line_num} has {len(line)} fields")
            rows.append(msgspec.json.encode(dict(zip(header, line, strict=True))))
    except UnicodeDecodeError as error:
        raise ProtocolViolation("graph", "a report that is not UTF-8") from error
    except csv.Error as error:
        raise ProtocolViolation("graph", f"a report that is no CSV ({error})") from error
    return rows
