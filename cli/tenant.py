"""`tenantry tenant ...`: commands as events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, get_args

import msgspec
import typer

from cli.command import INCOMPLETE, Session, flag, now, operator
from cli.offboarding import offboard as offboarded
from cli.offboarding import told
from cli.state import State, opened
from cli.views import fleet
from collectors.catalog import load_catalog
from domain import tenant as tenants
from domain.errors import Malformed, NotAllowed, Unknown
from domain.events import ExchangeAuth, ExchangeServer, TenantChanged, TenantEvent, TenantRegistered
from domain.ids import Dataset, domain_name, known_dataset, tenant_id, tenant_stream
from domain.tenant import Tenant
from eventstore.streams import Held

EXCHANGE_SERVER = "HOST[:PORT][/PATH]"
ServerOption = Annotated[
    str, typer.Option(metavar=EXCHANGE_SERVER, help="Its own Exchange Server's remote PowerShell, if any.")
]
AuthOption = Annotated[
    str, typer.Option(metavar="NAME", help="negotiate, basic, or kerberos (which needs `tenantry[kerberos]`).")
]
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Directory id (GUID).")]
Every = Annotated[float, typer.Option(metavar="HOURS", help="Hours between runs.")]


class Plan(NamedTuple):
    """`datasets` empty: the whole catalog."""

    datasets: tuple[Dataset, ...] = ()
    cadence_seconds: int = tenants.DAILY_SECONDS


WHOLE_CATALOG_DAILY = Plan()


def add(
    session: Session,
    tenant: TenantArgument,
    domain: Annotated[str, typer.Option(metavar="NAME", help="Its primary domain.")],
    name: Annotated[str, typer.Option(metavar="TEXT", help="A name to show [default: the domain].")] = "",
    cloud: Annotated[
        str, typer.Option(metavar="NAME", help="Name of a cloud (see `tenantry config show`).")
    ] = "public",
    exchange_server: ServerOption = "",
    exchange_auth: AuthOption = "negotiate",
    plan: Annotated[
        list[str] | None,
        typer.Option(metavar="DATASET", help="Only this dataset, and those of further --plan [default: all]."),
    ] = None,
    every: Every = 24.0,
) -> None:
    """Register a tenant and make its data key. `tenantry tenant plan` changes later what is collected and how often.

    Example: `tenantry tenant add 11111111-2222-3333-4444-555555555555 --domain contoso.com --plan entra.users`
    """
    state = opened(session)
    checked = tenant_id(tenant)
    known_cloud(session, cloud)
    registered = TenantRegistered(
        tenant=checked,
        name=name or domain_name(domain),
        domain=domain_name(domain),
        cloud=cloud,
        exchange_server=exchange_endpoint(exchange_server, exchange_auth) if exchange_server else None,
    )
    register(state, registered, planned(session, plan, every))
    _report(session, state, checked, "Registered")


def register(state: State, registered: TenantRegistered, plan: Plan = WHOLE_CATALOG_DAILY) -> None:
    """Registers a tenant with its plan and has the vault make its data key."""

    def decided(known: Tenant | None) -> list[TenantEvent]:
        first = tenants.register(known, registered)
        begun = tenants.known(known or tenants.evolve(None, registered), registered.tenant)
        return [*first, *tenants.plan(begun, *plan)]

    held: Held[Tenant | None, TenantEvent] = state.held(tenant_stream(registered.tenant), tenants.evolve, None)
    state.decide(held, decided, "tenant add")
    state.keyholder.create_data_key(registered.tenant, operator(), "tenant add")


def known_cloud(session: Session, name: str) -> None:
    """Raises `Unknown`."""
    if name not in session.settings.clouds:
        raise Unknown("cloud", name, f"There are {', '.join(sorted(session.settings.clouds))}.")


def change(
    session: Session,
    tenant: TenantArgument,
    domain: Annotated[str, typer.Option(metavar="NAME", help="Its primary domain.")] = "",
    name: Annotated[str, typer.Option(metavar="TEXT", help="A name to show.")] = "",
    cloud: Annotated[str, typer.Option(metavar="NAME", help="Name of a cloud.")] = "",
    exchange_server: ServerOption = "",
    exchange_auth: AuthOption = "negotiate",
    no_exchange_server: Annotated[bool, flag("--no-exchange-server", help="It has none (any more).")] = False,
) -> None:
    """Change what was registered; what is not given stays.

    Example: `tenantry tenant change TENANT --exchange-server mail.contoso.com --exchange-auth negotiate`
    """
    if exchange_server and no_exchange_server:
        raise NotAllowed(
            "change the tenant", "an Exchange Server is given, and that there is none", "Give one of both."
        )
    if cloud:
        known_cloud(session, cloud)
    server = exchange_endpoint(exchange_server, exchange_auth) if exchange_server else None

    def changed(known: Tenant) -> list[TenantEvent]:
        event = TenantChanged(
            name=name or known.name,
            domain=domain_name(domain) if domain else known.domain,
            cloud=cloud or known.cloud,
            exchange_server=server or (None if no_exchange_server else known.exchange_server),
        )
        return tenants.change(known, event)

    _decide(session, tenant, "Changed", changed)


def list_(session: Session) -> None:
    """List the tenants: what was collected last, what is stale and why.

    Example: `tenantry tenant list --json`
    """
    session.show(
        fleet(opened(session)),
        ("tenant", "name", "state", "last_run", "last_complete", "rows", "why"),
        "No tenants. Add one with `tenantry tenant add`.",
    )


def show(session: Session, tenant: TenantArgument) -> None:
    """Show one tenant: its registration, plan and datasets.

    Example: `tenantry tenant show TENANT`
    """
    state = opened(session)
    known = state.tenant(tenant)
    row = next((row for row in fleet(state) if row["tenant"] == known.id), {})
    facts = {**msgspec.to_builtins(known), "view": row}
    if session.json:
        session.print_json(facts)
        return
    session.say(f"{known.name} ({known.id}), {known.domain}, cloud {known.cloud}: {known.state}", "bold")
    session.say(told_plan(known))
    if known.exchange_server:
        session.say(f"Exchange Server: {known.exchange_server.host}:{known.exchange_server.port}")
    last = f"Last run {row['last_run']} ({row['last_run_state']})" if row.get("last_run") else "Never collected"
    session.say(f"{last}; credential {row.get('credential', 'none')}")
    if row.get("why"):
        ended = known.state == "offboarded"
        todo = "Nothing happens to it any more." if ended else f"`tenantry doctor {known.id}` says what to do."
        session.say(f"In the way: {row['why']}. {todo}", "yellow")
    columns = ("dataset", "state", "rows", "last_complete", "reason")
    session.show(row.get("datasets", []), columns, "Nothing collected yet.")


def plan(
    session: Session,
    tenant: TenantArgument,
    datasets: Annotated[
        list[str] | None, typer.Option("--dataset", "-d", metavar="NAME", help="Only these datasets.")
    ] = None,
    every: Annotated[float | None, typer.Option(metavar="HOURS", help="Hours between runs [default: 24].")] = None,
    whole: Annotated[bool, flag("--whole-catalog", help="Every dataset.")] = False,
) -> None:
    """Say which datasets to collect and how often; without any of these options, show the plan.

    Example: `tenantry tenant plan TENANT -d entra.users -d audit.sign-ins --every 6`
    """
    if whole and datasets:
        raise NotAllowed("plan", "the whole catalog is asked for, and some datasets", "Give one of both.")
    state = opened(session)
    known = state.tenant(tenant)
    if not datasets and not whole and every is None:
        if session.json:
            session.print_json({"datasets": known.datasets, "cadence_seconds": known.cadence_seconds})
        session.say(told_plan(known))
        return
    hours = known.cadence_seconds / 3600 if every is None else every
    wanted = planned(session, datasets or ([] if whole else known.datasets), hours)
    _decide(session, tenant, "Planned", lambda known: tenants.plan(known, *wanted), state)


def told_plan(known: Tenant) -> str:
    return f"Plan: {', '.join(known.datasets) or 'the whole catalog'}, every {known.cadence_seconds / 3600:g} h"


def planned(session: Session, datasets: Sequence[str] | None, every: float) -> Plan:
    """Raises `Unknown` or `Malformed`."""
    catalog = load_catalog(session.settings.catalog)
    chosen = tuple(known_dataset(name, catalog) for name in datasets or [])
    if not 0 < every <= 24 * 366:
        raise Malformed("cadence", every, "hours, more than 0 and at most a year")
    return Plan(chosen, int(every * 3600))


def suspend(
    session: Session,
    tenant: TenantArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")],
) -> None:
    """Stop collecting a tenant until it is resumed.

    Example: `tenantry tenant suspend TENANT --reason "contract under review"`
    """
    _decide(session, tenant, "Suspended", lambda known: tenants.suspend(known, reason))


def resume(session: Session, tenant: TenantArgument) -> None:
    """Collect a suspended tenant again.

    Example: `tenantry tenant resume TENANT`
    """
    _decide(session, tenant, "Resumed", tenants.resume)


def offboard(
    session: Session,
    tenant: TenantArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")],
    yes: Annotated[bool, flag("--yes", help="Do not ask.")] = False,
) -> None:
    """Destroy the tenant's data key and credentials: what was collected cannot be read any more. Not undoable.

    Exit code 3 when the secret store keeps something that it was told to delete, a Key Vault with purge protection for
    example: it says what and until when, and so does the record. Done again, it purges what may be purged by then.

    Example: `tenantry tenant offboard TENANT --reason "contract ended"`
    """
    state = opened(session)
    known = state.tenant(tenant)
    if not yes and not typer.confirm(f"Destroy everything collected from {known.name} for ever?", default=False):
        raise NotAllowed("offboard the tenant", "it was not confirmed", "Answer y, or give --yes.")
    done = offboarded(state, known, reason)
    known = state.tenant(tenant)
    if session.json:
        session.print_json({**msgspec.to_builtins(known), **done._asdict()})
    ended = "deleted" if done.left or known.retained else "destroyed"
    session.say(f"Offboarded {known.name} ({known.id}): its data key and credentials are {ended}.")
    if done.cancelled:
        session.say(f"Cancelled {done.cancelled} of its runs.")
    for name in done.left or []:
        session.say(f"Still in the secret store: {name}", "yellow")
    for kept in known.retained:
        session.say(told(kept), "yellow")
    if done.left or known.retained:
        raise typer.Exit(INCOMPLETE)


def exchange_endpoint(text: str, auth: str) -> ExchangeServer:
    """`host[:port][/path]`; raises `Malformed`."""
    place, _, path = text.partition("/")
    host, _, port = place.partition(":")
    if auth not in get_args(ExchangeAuth):
        raise Malformed("Exchange authentication", auth, ", ".join(get_args(ExchangeAuth)))
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise Malformed("port", port, "1 to 65535")
    if host != "localhost":
        domain_name(host)
    return ExchangeServer(host=host, port=int(port or 443), path=path or "PowerShell", auth=auth)  # type: ignore[arg-type]


def _decide(
    session: Session,
    tenant: str,
    done: str,
    decision: Callable[[Tenant], list[TenantEvent]],
    state: State | None = None,
) -> None:
    state = state or opened(session)
    held = state.tenant_stream(tenant)
    changed = state.decide(held, lambda known: decision(tenants.known(known, tenant_id(tenant))), session.command)
    _report(session, state, tenant, done if changed else "Nothing to change for")


def _report(session: Session, state: State, tenant: str, done: str) -> None:
    known: Any = state.tenant(tenant)
    if session.json:
        session.print_json(msgspec.to_builtins(known))
    session.say(f"{done} {known.name} ({known.id}) at {now():%Y-%m-%d %H:%M:%SZ}.")
