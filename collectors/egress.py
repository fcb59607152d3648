"""Where a tenant's collections connect to, from which address, and why a place cannot be reached.

For people who have to open a firewall or name a location in a Conditional Access policy.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Collection, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from collectors.dataset import Workload
from collectors.reader import Request, Response
from collectors.transport import BRIEFLY, HttpTransport, tls_context
from crypto.secret import Secret
from domain.errors import ConnectionLost, ServiceUnavailable, Throttled, TransientError
from domain.events import ExchangeServer
from domain.ids import TenantId
from domain.settings import Cloud, Settings

CONNECT_SECONDS = 10.0
DOWNLOADS: Mapping[str, tuple[str, ...]] = {"graph.microsoft.com": ("reports*.office.com",)}
"""Hosts that a Graph redirects downloads of usage reports to, with `*` for what varies (seen in public captures)."""
AZURE_LOGIN = "https://login.microsoftonline.com"
"""Where azure-identity signs our own processes in, unless the settings or AZURE_AUTHORITY_HOST name another."""
UNTRUSTED = "is not trusted"
PATHS: Mapping[str, str] = {"login": "/{tenant}/v2.0/.well-known/openid-configuration", "graph": "/v1.0/"}
"""What is asked for, without a token, to see whether anybody answers; any answer will do, except of `login`."""


class Destination(NamedTuple):
    """`purpose`: login, graph, exchange, exchange-server, download or key-vault. `host` may hold a `*`."""

    host: str
    port: int
    purpose: str


def destinations(cloud: Cloud, workloads: Collection[Workload], server: ExchangeServer | None) -> list[Destination]:
    """Hosts and ports to allow for these workloads; signing in comes first."""
    found = [_destination(cloud.login, "login")] if {"graph", "exchange"} & {*workloads} else []
    if "graph" in workloads:
        graph = _destination(cloud.graph, "graph")
        found += [graph, *(Destination(host, 443, "download") for host in DOWNLOADS.get(graph.host, ()))]
    if "exchange" in workloads:
        found.append(_destination(cloud.exchange, "exchange"))
    if "exchange-server" in workloads and server is not None:
        found.append(Destination(server.host, server.port, "exchange-server"))
    return found


def key_vaults(settings: Settings) -> list[Destination]:
    """What our own processes reach besides: the Key Vaults of secrets and keys, and the login service for those."""
    vaults = [url for url in (settings.secrets, settings.custody) if url.startswith("https:")]
    if not vaults:
        return []
    authority = settings.secrets_authority or AZURE_LOGIN
    return [_destination(authority, "login"), *(_destination(url, "key-vault") for url in vaults)]


def source_address(host: str, port: int) -> str | None:
    """The address of this machine that leads there; no packet is sent. None when there is no way."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def address_hint(host: str, port: int) -> str:
    """What to name as location: the address, or where to look for it behind a gateway."""
    if proxied(host):
        return "Requests go through the proxy that the environment names: its public address counts."
    address = source_address(host, port)
    if address is None:
        return "No address of this machine leads there."
    if ipaddress.ip_address(address.partition("%")[0]).is_global:
        return f"This machine connects from {address}."
    return (
        f"This machine connects from {address}, which is private: what counts is the public address of its gateway. "
        "The tenant's Entra sign-in log shows it beside each sign-in."
    )


def proxied(host: str) -> bool:
    return "https" in getproxies() and not proxy_bypass(host)


async def answer_of(cloud: Cloud, purpose: str, tenant: TenantId | None) -> Response:
    """Of the cloud's `login`, `graph` or `exchange`, without signing in. Raises `ConnectionLost` with the reason in
    words, `ServiceUnavailable` or `Throttled`."""
    origin = {"login": cloud.login, "graph": cloud.graph, "exchange": cloud.exchange}[purpose]
    request = Request(
        method="GET",
        url=origin + PATHS.get(purpose, "/").format(tenant=tenant or "common"),
        headers={},
        workload="exchange" if purpose == "exchange" else "graph",
        tenant=tenant or TenantId(""),
        bucket="graph",
        cost=1.0,
        authorized=False,
    )
    transport = HttpTransport(cloud, patience=BRIEFLY)
    try:
        with Secret(b"none") as nothing:
            return await transport.perform(request, nothing)
    except ConnectionLost as lost:
        raise ConnectionLost(purpose, hindrance(origin, cloud.ca_bundle) or str(lost.args[1])) from None
    except ServiceUnavailable as error:
        raise ServiceUnavailable(purpose, *error.args[1:]) from None
    except Throttled as error:
        raise Throttled(purpose, *error.args[1:]) from None
    finally:
        await transport.aclose()


def hindrance(origin: str, ca_bundle: str) -> str | None:
    """Why a direct connection fails: its name, its port or its certificate. None when it does not, or with a proxy."""
    place = _destination(origin, "")
    if proxied(place.host):
        return "through the proxy that the environment names"
    try:
        with socket.create_connection((place.host, place.port), CONNECT_SECONDS) as connection:
            context = tls_context(ca_bundle)
            context.wrap_socket(connection, server_hostname=place.host).close()
    except socket.gaierror:
        return f"the name {place.host} does not resolve"
    except TimeoutError:
        return f"{place.host} port {place.port} does not answer; a firewall may stand between"
    except ssl.SSLCertVerificationError as error:
        return f"the certificate of {place.host} {UNTRUSTED} ({error.verify_message})"
    except ssl.SSLError as error:
        return f"{place.host} does not speak TLS as it should ({error.reason})"
    except OSError as error:
        return f"{place.host} port {place.port}: {error.strerror or error}"
    return None


def remedy_for(lost: TransientError) -> str:
    """What to do about what `answer_of` raises."""
    if UNTRUSTED in str(lost):
        return "Name the authority that signed it as the cloud's ca_bundle (a PEM file) in tenantry.toml."
    return "Allow what `tenantry doctor --egress` lists, or correct the cloud in tenantry.toml."


def _destination(origin: str, purpose: str) -> Destination:
    parts = urlsplit(origin)
    return Destination(parts.hostname or "", parts.port or 443, purpose)
