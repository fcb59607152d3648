"""`python -m simulator`: a Microsoft 365 on this machine's loopback interface, for as long as it is wanted."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from simulator.estate import Estate, build_estate
from simulator.server import PortTaken, Simulator

EPILOG = """\
When it is ready it prints one line of JSON: its address, the file with its certificate authority, the table of hosts
to put in the place of Microsoft's, and for each tenant the id, the domain and a credential. Secrets are random, stand
in files below DIR that only you can read, and are made anew at each start; people and groups come from the seed.

Tenants sign in by application certificate, application secret and service account in turn. From five tenants on,
the fourth's service account is asked for MFA and the fifth's application secret has expired. Every third tenant has
an Exchange Server (Basic authentication at /PowerShell).

To look inside, switch faults on or change the data:
  curl --cacert DIR/ca.pem https://localhost:PORT/_simulator/
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal, or the end of standard input when asked to; the exit status."""
    options = _parser().parse_args(argv)
    directory = Path(options.state).absolute()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        taken = _taken(directory)
    except BlockingIOError:
        sys.stderr.write(f"Another simulator uses {directory}. Give a directory of its own.\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or directory}: {error.strerror or error}\n")
        return 1
    try:
        estate = build_estate(
            tenants=options.tenants,
            users=options.users,
            seed=options.seed,
            now=datetime.now(UTC),
            directory=directory / "credentials",
        )
        with Simulator(estate.world, options.port, state=directory) as simulator:
            sys.stdout.write(json.dumps(announcement(simulator, estate), ensure_ascii=False) + "\n")
            sys.stdout.flush()
            if options.until_stdin_closes:
                threading.Thread(target=_follow_stdin, args=(stop,), name="standard input", daemon=True).start()
            if sys.stderr.isatty():
                sys.stderr.write(f"Serving {len(estate.tenants)} tenants at {simulator.url}; Ctrl-C stops it.\n")
            stop.wait()
    except PortTaken as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or directory}: {error.strerror or error}\n")
        return 1
    finally:
        os.close(taken)
    return 0


def _taken(directory: Path) -> int:
    """A lock on the directory, held until the descriptor is closed: another simulator would write over its files."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def announcement(simulator: Simulator, estate: Estate) -> dict[str, object]:
    """The line that says it is ready. `clouds` has the members of a cloud table; the same origin serves them all."""
    hosts = dict.fromkeys(("login", "graph", "exchange", "compliance", "activity"), simulator.url)
    first = estate.tenants[0]
    return {
        "url": simulator.url,
        "ca_bundle": str(simulator.ca_file),
        "clouds": {"simulator": {**hosts, "ca_bundle": str(simulator.ca_file)}},
        "key_vault": {"url": simulator.url, "tenant": first["id"]},
        "tenants": estate.tenants,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="A Microsoft 365 to run against: Entra ID, Graph, Exchange and Key Vault on loopback HTTPS.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tenants", metavar="N", type=_between(1, 10_000), default=6, help="how many tenants (6)")
    parser.add_argument("--users", metavar="N", type=_between(1, 1_000_000), default=100, help="people of each (100)")
    parser.add_argument("--seed", metavar="S", type=int, default=1, help="same seed, same people and groups (1)")
    parser.add_argument("--port", metavar="P", type=_between(0, 65_535), default=0, help="0 is a free one (0)")
    parser.add_argument(
        "--state", metavar="DIR", default=".simulator", help="where certificates and credentials go (.simulator)"
    )
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input does")
    return parser


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} to {most}")
        return int(text)

    return number


def _follow_stdin(stop: threading.Event) -> None:
    while sys.stdin.buffer.readline(4096):
        continue
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
