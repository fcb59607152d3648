"""The collections and single items of the directory: users, groups, members, owners, licences, the organization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from simulator.graph_paging import Continuation, Query, collection, cut_page, is_empty_page, link, page_size
from simulator.graph_rows import (
    GROUP,
    GROUP_DEFAULT,
    USER,
    USER_DEFAULT,
    USER_SINGLE_ONLY,
    organization_row,
    rows_of,
    sku_row,
    units_consumed,
)
from simulator.graph_wire import Answer, Call, Refused, encode, identity
from simulator.world import Group, Person, Tenant

LIST_DEFAULT = 100
LIST_MOST = 999
WITH_SIGN_IN_ACTIVITY_MOST = 500
NAVIGATION = frozenset({"manager", "members", "owners", "memberOf", "directReports"})
NOT_PREMIUM = "Authentication_RequestFromNonPremiumTenantOrB2CTenant"


def chosen(query: Query, table: Mapping[str, object], default: tuple[str, ...], kind: str) -> tuple[str, ...]:
    """The property names asked for, or the default ones. Refuses a name the type does not have."""
    if query.select is None:
        return default
    for name in query.select:
        if name in USER_SINGLE_ONLY and kind == "user":
            raise Refused(501, "NotImplemented", f"'{name}' can be asked for one user at a time only.")
        if name not in NAVIGATION and (name not in table or "@" in name):
            raise unknown_property(name, kind)
    return tuple(name for name in query.select if name not in NAVIGATION) or ("id",)


def unknown_property(name: str, kind: str) -> Refused:
    message = f"Could not find a property named '{name[:80]}' on type 'microsoft.graph.{kind}'."
    return Refused(400, "Request_BadRequest", message)


def require_premium(tenant: Tenant) -> None:
    if not tenant.settings.get("premium", True):
        raise Refused(403, NOT_PREMIUM, "Neither tenant is B2C or tenant doesn't have premium license")


def ordered(call: Call, name: str, ids: Callable[[], Iterable[str]], mark: object) -> Sequence[str]:
    """The ids sorted; remembered for this tenant, name and mark (which must differ when the ids do)."""
    return call.views.orders.get((identity(call.tenant), name, mark), lambda: sorted(ids()))


def everyone(call: Call) -> Sequence[str]:
    tenant = call.tenant
    return ordered(call, "users", lambda: tenant.people, (tenant.sequence, len(tenant.people)))


def every_group(call: Call) -> Sequence[str]:
    tenant = call.tenant
    return ordered(call, "groups", lambda: tenant.groups, (tenant.sequence, len(tenant.groups)))


def members_of(call: Call, group: Group) -> Sequence[str]:
    mark = (group.id, group.changed, len(group.member_changes), len(group.member_ids))
    return ordered(call, "members", lambda: group.member_ids, mark)


def present(rows: Iterable[bytes | None]) -> list[bytes]:
    return [row for row in rows if row is not None]


def page_of(
    call: Call,
    query: Query,
    *,
    route: str,
    context: str,
    ids: Sequence[str],
    row: Callable[[str], bytes | None],
    size: int,
) -> Answer:
    """The page of a collection whose sorted ids are `ids`; an item that went away meanwhile has no row."""
    token = query.token
    number = token.page if token is not None else 0
    annotations: dict[str, object] = {}
    if query.counted and call.headers.get("consistencylevel", "").lower() == "eventual":
        annotations["@odata.count"] = len(ids)
    empty = is_empty_page(call.tenant, number)
    shown, more = ((), bool(ids)) if empty else cut_page(call.tenant, ids, token, size)
    if more:
        following = Continuation(
            route=route,
            kind="skip",
            sequence=call.tenant.sequence,
            issued=call.now.timestamp(),
            after=shown[-1] if shown else (token.after if token is not None else ""),
            page=number + 1,
            size=size,
            select=query.select,
            filter=query.filter,
            doom=query.doom,
        )
        annotations["@odata.nextLink"] = link(call, following)
    return collection(call, context, present(map(row, shown)), annotations)


def narrowed(context: str, query: Query) -> str:
    return f"{context}({','.join(query.select)})" if query.select else context


def users(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    names = chosen(query, USER, USER_DEFAULT, "user")
    most = LIST_MOST
    if "signInActivity" in names:
        require_premium(call.tenant)
        most = WITH_SIGN_IN_ACTIVITY_MOST
    size = page_size(query, LIST_DEFAULT, most)
    return page_of(
        call,
        query,
        route="users",
        context=narrowed("users", query),
        ids=everyone(call),
        row=people_rows(call, names),
        size=size,
    )


def people_rows(call: Call, names: tuple[str, ...]) -> Callable[[str], bytes | None]:
    return rows_of(call.views, call.tenant, call.tenant.people, USER, names)


def group_rows(call: Call, names: tuple[str, ...]) -> Callable[[str], bytes | None]:
    return rows_of(call.views, call.tenant, call.tenant.groups, GROUP, names)


def groups(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    names = chosen(query, GROUP, GROUP_DEFAULT, "group")
    return page_of(
        call,
        query,
        route="groups",
        context=narrowed("groups", query),
        ids=every_group(call),
        row=group_rows(call, names),
        size=page_size(query, LIST_DEFAULT, LIST_MOST),
    )


def members(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    return _people_of_group(call, query, "group-members", members_of(call, _group(call.tenant, args[0])))


def owners(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    return _people_of_group(call, query, "group-owners", sorted(_group(call.tenant, args[0]).owner_ids))


def _people_of_group(call: Call, query: Query, route: str, ids: Sequence[str]) -> Answer:
    names = chosen(query, USER, USER_DEFAULT, "directoryObject")
    plain = people_rows(call, names)

    def row(person_id: str) -> bytes | None:
        whole = plain(person_id)
        return None if whole is None else b'{"@odata.type":"#microsoft.graph.user",' + whole[1:]

    size = page_size(query, LIST_DEFAULT, LIST_MOST)
    return page_of(call, query, route=route, context=narrowed("directoryObjects", query), ids=ids, row=row, size=size)


def user(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    person = _person(call.tenant, args[0])
    names = chosen(query, USER, USER_DEFAULT, "user")
    return _entity(call, narrowed("users", query), people_rows(call, names)(person.id))


def group(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    names = chosen(query, GROUP, GROUP_DEFAULT, "group")
    found = _group(call.tenant, args[0])
    return _entity(call, narrowed("groups", query), group_rows(call, names)(found.id))


def _entity(call: Call, context: str, row: bytes | None) -> Answer:
    if row is None:
        raise not_found(call.path)
    head = encode({"@odata.context": f"{call.origin}/{call.version}/$metadata#{context}/$entity"})
    return Answer(200, head[:-1] + b"," + row[1:])


def _person(tenant: Tenant, key: str) -> Person:
    lowered = key.lower()
    person = tenant.people.get(lowered) or next((p for p in tenant.people.values() if p.upn.lower() == lowered), None)
    if person is None:
        raise not_found(key)
    return person


def _group(tenant: Tenant, key: str) -> Group:
    found = tenant.groups.get(key.lower())
    if found is None:
        raise not_found(key)
    return found


def not_found(key: str) -> Refused:
    message = f"Resource '{key[:120]}' does not exist or one of its queried reference-property objects are not present."
    return Refused(404, "Request_ResourceNotFound", message)


def users_count(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    return _count(call, len(call.tenant.people))


def groups_count(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    return _count(call, len(call.tenant.groups))


def members_count(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    return _count(call, len(_group(call.tenant, args[0]).member_ids))


def _count(call: Call, number: int) -> Answer:
    if call.headers.get("consistencylevel", "").lower() != "eventual":
        message = "$count is not currently supported without the header 'ConsistencyLevel: eventual'."
        raise Refused(400, "Request_BadRequest", message)
    accept = call.headers.get("accept", "*/*")
    if not any(kind in accept for kind in ("text/plain", "text/*", "*/*")):
        raise Refused(415, "Request_BadRequest", "A count is text/plain.")
    return Answer(200, str(number).encode(), {}, "text/plain")


def organization(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    return _rows(call, query, "organization", [organization_row(call.tenant)])


def subscribed_skus(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    tenant = call.tenant
    mark = (identity(tenant), tenant.sequence, len(tenant.people))
    consumed = call.views.counts.get(mark, lambda: units_consumed(tenant))
    return _rows(call, query, "subscribedSkus", [sku_row(tenant, sku, consumed) for sku in tenant.skus])


def _rows(call: Call, query: Query, kind: str, rows: Sequence[dict[str, Any]]) -> Answer:
    """A collection of few rows, in one page."""
    for name in query.select or ():
        if rows and name not in rows[0]:
            raise unknown_property(name, kind)
    shown = [{name: row[name] for name in query.select or row} for row in rows]
    return collection(call, narrowed(kind, query), [encode(row) for row in shown], {})
