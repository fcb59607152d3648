"""Delta queries over users and groups: a first round with everything, later ones with what changed since.

A round carries the tenant's sequence at its start into its delta link, so a change during a round is given in the next
one, perhaps for the second time and never not at all (Graph documents replays). Members of a group come in portions: a
large group stands on several pages, each with some of its `members@delta`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence

import msgspec

from simulator.graph_lists import (
    NAVIGATION,
    chosen,
    every_group,
    everyone,
    group_rows,
    members_of,
    ordered,
    people_rows,
    present,
)
from simulator.graph_paging import FULL, Continuation, Query, collection, cut_page, is_empty_page, link
from simulator.graph_rows import (
    GROUP,
    GROUP_DEFAULT,
    USER,
    USER_DEFAULT,
    reason_removed,
)
from simulator.graph_wire import Answer, Call, Refused, encode
from simulator.world import Group

PAGE_DEFAULT = 200
PAGE_MOST = 999
MEMBERS_A_PAGE = 1_000
NOT_IN_DELTA = frozenset({"signInActivity"})
MAX_PAGE_SIZE = re.compile(r"odata\.maxpagesize=(\d{1,9})", re.IGNORECASE)


def users_delta(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    names = _names(query, USER, USER_DEFAULT, "user", {"manager": "manager@delta"})
    tenant, plain = call.tenant, people_rows(call, names)

    def row(person_id: str) -> bytes | None:
        return plain(person_id) or (_removed(person_id) if person_id in tenant.removed_people else None)

    def changed(since: int) -> list[str]:
        return [p.id for p in list(tenant.people.values()) if p.changed > since] + _since(tenant.removed_people, since)

    def page(token: Continuation) -> tuple[list[bytes], Continuation | None]:
        known = everyone(call) if token.since == FULL else _changes(call, "users", token.since, changed)
        shown, more = cut_page(tenant, known, token, token.size)
        return present(map(row, shown)), msgspec.structs.replace(token, after=shown[-1]) if more else None

    return _round(call, query, "users-delta", "users", page)


def groups_delta(call: Call, query: Query, args: tuple[str, ...]) -> Answer:
    names = _names(query, GROUP, GROUP_DEFAULT, "group", {})
    with_members = query.select is None or "members" in query.select
    tenant, plain = call.tenant, group_rows(call, names)

    def changed(since: int) -> list[str]:
        return [
            g.id
            for g in list(tenant.groups.values())
            if g.changed > since or (with_members and g.member_changes and g.member_changes[-1][0] > since)
        ] + _since(tenant.removed_groups, since)

    def page(token: Continuation) -> tuple[list[bytes], Continuation | None]:
        known = (
            every_group(call) if token.since == FULL else _changes(call, f"groups {with_members}", token.since, changed)
        )
        rows: list[bytes] = []
        room = max(1, int(tenant.settings.get("members_page_size", MEMBERS_A_PAGE)))
        at = (bisect_left if token.inside else bisect_right)(known, token.after)
        inside = token.inside if at < len(known) and known[at] == token.after else ""
        while at < len(known) and len(rows) < token.size and room > 0:
            group_id = known[at]
            group, row = tenant.groups.get(group_id), plain(group_id)
            if group is None or row is None:
                rows += [_removed(group_id)] if group_id in tenant.removed_groups else []
            elif not with_members:
                rows.append(row)
            else:
                touched = _touched(call, group, token.since)
                start = bisect_right(touched, inside) if inside else 0
                portion = touched[start : start + room]
                room -= len(portion)
                rows.append(_with_members(row, group, portion))
                if start + len(portion) < len(touched):
                    return rows, msgspec.structs.replace(token, after=group_id, inside=portion[-1])
            inside = ""
            at += 1
        if at >= len(known):
            return rows, None
        return rows, msgspec.structs.replace(token, after=known[at - 1], inside="")

    return _round(call, query, "groups-delta", "groups", page)


def _round(
    call: Call,
    query: Query,
    route: str,
    context: str,
    page: Callable[[Continuation], tuple[list[bytes], Continuation | None]],
) -> Answer:
    """One page of a round, whether it is the first, a later one, or the first of a round from a delta link."""
    tenant = call.tenant
    size, applied = _size(call)
    token = query.token
    if token is None or token.kind == "delta":
        since = FULL if token is None else token.sequence
        started = call.now.timestamp()
        token = Continuation(
            route, "skip", tenant.sequence, started, since, size=size, select=query.select, doom=query.doom
        )
    elif applied:
        token = msgspec.structs.replace(token, size=size)
    headers = {"Preference-Applied": f"odata.maxpagesize={size}"} if applied else {}
    rows: list[bytes] = []
    following: Continuation | None = None
    if call.options.get("$deltatoken") != "latest":
        rows, following = ([], token) if is_empty_page(tenant, token.page) else page(token)
    if following is not None:
        annotation = {"@odata.nextLink": link(call, msgspec.structs.replace(following, page=token.page + 1))}
    else:
        doom = token.doom if token.doom == "gone" else None
        ended = Continuation(route, "delta", token.sequence, call.now.timestamp(), select=token.select, doom=doom)
        annotation = {"@odata.deltaLink": link(call, ended)}
    answer = collection(call, context, rows, annotation)
    return Answer(answer.status, answer.body, headers)


def _size(call: Call) -> tuple[int, bool]:
    """The page size, and whether the caller's preference decided it."""
    preferred = MAX_PAGE_SIZE.search(call.headers.get("prefer", ""))
    if preferred is not None and int(preferred[1]) > 0:
        return min(int(preferred[1]), PAGE_MOST), True
    return max(1, int(call.tenant.settings.get("delta_page_size", PAGE_DEFAULT))), False


def _names(
    query: Query, table: Mapping[str, object], default: tuple[str, ...], kind: str, navigation: Mapping[str, str]
) -> tuple[str, ...]:
    """The properties of a delta row: the id always, and navigation properties under their delta names."""
    if query.select is None:
        return default
    for name in query.select:
        if name in NOT_IN_DELTA:
            raise Refused(400, "Request_UnsupportedQuery", f"'{name}' is not supported in a delta query.")
    plain = chosen(query, table, default, kind)
    named = [navigation[name] for name in query.select if name in NAVIGATION and name in navigation]
    return tuple(dict.fromkeys(("id", *plain, *named)))


def _changes(call: Call, name: str, since: int, changed: Callable[[int], list[str]]) -> Sequence[str]:
    return ordered(call, f"{name} since {since}", lambda: changed(since), call.tenant.sequence)


def _since(removed: Mapping[str, int], since: int) -> list[str]:
    return [item_id for item_id, sequence in list(removed.items()) if sequence > since]


def _touched(call: Call, group: Group, since: int) -> Sequence[str]:
    """Sorted ids of the members of a group that a round since `since` is told about."""
    if since == FULL or group.born > since:
        return members_of(call, group)
    return sorted({person_id for sequence, person_id, _ in group.member_changes if sequence > since})


def _with_members(row: bytes, group: Group, portion: Sequence[str]) -> bytes:
    if not portion:
        return row
    return row[:-1] + b',"members@delta":[' + ",".join(_member(group, p) for p in portion).encode() + b"]}"


def _member(group: Group, person_id: str) -> str:
    removed = "" if person_id in group.member_ids else ',"@removed":{"reason":"deleted"}'
    return f'{{"@odata.type":"#microsoft.graph.user","id":"{person_id}"{removed}}}'


def _removed(item_id: str) -> bytes:
    return encode({"id": item_id, "@removed": {"reason": reason_removed(item_id)}})
