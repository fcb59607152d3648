"""Tenants out of a seed: people, groups and licences that fit together, and the changes of a working day.

The same seed gives the same tenant, byte for byte. What a person is decides what else is true of them: the department
gives the titles and the licences, the office gives the city and country, a licence with Exchange gives a mailbox, a
disabled account stopped signing in before it was disabled. Credentials are not made here.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from datetime import datetime, timedelta
from uuid import UUID

from simulator import vocabulary
from simulator.world import Group, Person, Sku, Tenant

GUEST_SHARE = 0.05
DISABLED_SHARE = 0.06
PEOPLE_PER_GROUP = 12
LARGEST_GROUP_SHARE = 0.25
EVERYBODY = "All Employees"
DAY = 86_400


def populate(*, seed: int, name: str, users: int, now: datetime, exchange_server: bool = False) -> Tenant:
    """A tenant called `name` with `users` people as of `now`, about one group per twelve of them and its licences."""
    rng = random.Random(f"tenant {seed} {name}")  # noqa: S311 - repeatable on purpose
    slug = re.sub(r"[^a-z0-9]+", "", _ascii(name).lower()) or "tenant"
    tenant = Tenant(
        id=_guid(rng),
        domain=f"{slug}.example",
        name=name,
        seed=seed,
        created=now - timedelta(days=rng.randrange(1_500, 4_000)),
        now=now,
        exchange_server=exchange_server,
    )
    names = _Names(tenant, rng)
    hired: dict[str, list[str]] = {}
    for _ in range(users):
        person = names.guest() if rng.random() < GUEST_SHARE else names.member(hired)
        tenant.people[person.id] = person
    _add_groups(tenant, rng, users // PEOPLE_PER_GROUP)
    tenant.skus = _bought(consumed_units(tenant), rng)
    return tenant


def consumed_units(tenant: Tenant) -> Counter[str]:
    """How many people hold each licence, by SKU id."""
    return Counter(sku for person in tenant.people.values() for sku in person.sku_ids)


def change(tenant: Tenant, fraction: float) -> dict[str, int]:
    """Let about `fraction` of the people and some groups change; returns what happened, counted.

    One call is one step of `tenant.sequence`. Half of the changed people are edited, a quarter leave, a quarter join.
    Whoever leaves disappears from every group, and their reports go to the manager above.
    """
    if not 0 <= fraction <= 1:
        raise ValueError("the fraction lies between 0 and 1")
    tenant.sequence += 1
    rng = random.Random(f"change {tenant.seed} {tenant.sequence}")  # noqa: S311 - repeatable on purpose
    touched = min(len(tenant.people), round(len(tenant.people) * fraction))
    chosen = rng.sample(sorted(tenant.people), touched)
    leavers, edited = set(chosen[: touched // 4]), chosen[touched // 4 :]
    counts = {"edited": 0, "added": 0, "removed": 0, "memberships": 0, "groups_removed": 0}
    counts["memberships"] += _remove(tenant, leavers)
    counts["removed"] = len(leavers)
    for person_id in edited[: touched - 2 * len(leavers)]:
        _edit(tenant.people[person_id], tenant.sequence, rng)
        counts["edited"] += 1
    names, hired = _Names(tenant, rng), _by_department(tenant)
    for _ in range(len(leavers)):
        person = names.member(hired)
        person.changed = tenant.sequence
        tenant.people[person.id] = person
        counts["added"] += 1
    counts["memberships"] += _move_members(tenant, rng, round(len(tenant.groups) * fraction))
    if fraction > 0 and len(tenant.groups) > 20 and rng.random() < 0.25:
        dissolved = rng.choice([g.id for g in tenant.groups.values() if g.name != EVERYBODY])
        del tenant.groups[dissolved]
        tenant.removed_groups[dissolved] = tenant.sequence
        counts["groups_removed"] = 1
    held, used = {sku.id for sku in tenant.skus}, consumed_units(tenant)
    tenant.skus += [sku for sku in _bought(used, rng) if sku.id not in held]
    tenant.skus = [Sku(s.id, s.part_number, max(s.enabled_units, used[s.id])) for s in tenant.skus]
    return counts


class _Names:
    """Makes people of one tenant and remembers which addresses are taken."""

    def __init__(self, tenant: Tenant, rng: random.Random) -> None:
        self.tenant = tenant
        self.rng = rng
        self.taken = {person.upn for person in tenant.people.values()}
        self.number = len(tenant.people) + len(tenant.removed_people)
        self.offices = rng.sample(vocabulary.OFFICES, k=min(6, len(vocabulary.OFFICES)))

    def member(self, hired: dict[str, list[str]]) -> Person:
        """An employee of a department; `hired` is the department's people so far, the first of whom lead it."""
        rng, tenant = self.rng, self.tenant
        self.number += 1
        department = rng.choices(vocabulary.DEPARTMENTS, vocabulary.DEPARTMENT_WEIGHTS)[0]
        colleagues = hired.setdefault(department.name, [])
        given, surname = rng.choice(vocabulary.GIVEN_NAMES), rng.choice(vocabulary.SURNAMES)
        local = self._local(given, surname, tenant.domain)
        upn = f"{local}@{tenant.domain}"
        office, city, country = self.offices[min(int(rng.expovariate(0.6)), len(self.offices) - 1)]
        enabled = rng.random() >= DISABLED_SHARE
        created = _between(rng, tenant.created, tenant.now)
        skus = _licences(department, rng) if enabled or rng.random() < 0.3 else ()
        mailbox = any(sku in vocabulary.WITH_MAILBOX for sku in skus)
        items = min(int(rng.lognormvariate(8.3, 1.1)), 900_000) if mailbox else 0
        person = Person(
            id=_guid(rng),
            given_name=given,
            surname=surname,
            upn=upn,
            mail=upn,
            department=department.name,
            job_title=rng.choice(department.leaders if len(colleagues) % 15 == 0 else department.titles),
            office=office,
            city=city,
            country=country,
            employee_id=f"E{self.number:06d}",
            guest=False,
            enabled=enabled,
            created=created,
            sku_ids=skus,
            proxy_addresses=(f"SMTP:{upn}", f"smtp:{local}@{tenant.initial_domain}"),
            mailbox_guid=_guid(rng) if mailbox else None,
            manager_id=colleagues[(len(colleagues) - 1) // 7] if colleagues else None,
            last_sign_in=self._last_sign_in(created, enabled),
            mailbox_items=items,
            mailbox_bytes=items * rng.randrange(20_000, 120_000),
        )
        colleagues.append(person.id)
        return person

    def guest(self) -> Person:
        """Somebody of a partner company: no licence, no mailbox, no office here."""
        rng, tenant = self.rng, self.tenant
        given, surname = rng.choice(vocabulary.GIVEN_NAMES), rng.choice(vocabulary.SURNAMES)
        company, domain = rng.choice(vocabulary.PARTNERS)
        suffix = f"{domain}#EXT#@{tenant.initial_domain}"
        local = self._local(given, surname, suffix, joined_by="_")
        created = _between(rng, tenant.created, tenant.now)
        return Person(
            id=_guid(rng),
            given_name=given,
            surname=surname,
            upn=f"{local}_{suffix}",
            mail=f"{local}@{domain}",
            department="",
            job_title="",
            office=company,
            city="",
            country="",
            employee_id="",
            guest=True,
            enabled=rng.random() >= DISABLED_SHARE / 2,
            created=created,
            sku_ids=(),
            proxy_addresses=(f"SMTP:{local}@{domain}",),
            mailbox_guid=None,
            manager_id=None,
            last_sign_in=self._last_sign_in(created, rng.random() < 0.6),
            mailbox_items=0,
            mailbox_bytes=0,
        )

    def _local(self, given: str, surname: str, domain: str, joined_by: str = "@") -> str:
        plain = f"{_ascii(given)}.{_ascii(surname)}".lower().replace(" ", "").replace("'", "")
        local, number = plain, 1
        while f"{local}{joined_by}{domain}" in self.taken:
            number += 1
            local = f"{plain}{number if number < 40 else self.rng.randrange(100, 1_000_000)}"
        self.taken.add(f"{local}{joined_by}{domain}")
        return local

    def _last_sign_in(self, created: datetime, active: bool) -> datetime:
        days = self.rng.expovariate(0.5) if active else 40 + self.rng.expovariate(0.01)
        return max(created, self.tenant.now - timedelta(seconds=int(days * DAY)))


def _licences(department: vocabulary.Department, rng: random.Random) -> tuple[str, ...]:
    """A suite that suits the department, and for some people an addition."""
    suite = rng.choices(department.suites, (0.62, 0.26, 0.12)[: len(department.suites)])[0]
    extra = department.addition if rng.random() < 0.35 else None
    return tuple(vocabulary.SKU_IDS[part] for part in (suite, extra) if part)


def _bought(used: Counter[str], rng: random.Random) -> list[Sku]:
    """Licences are bought in packs of ten or a hundred: at least what is used, often more."""
    packs = {sku: 10 if used[sku] < 500 else 100 for sku in used}
    return [
        Sku(sku, part, (used[sku] // packs[sku] + rng.randrange(1, 4)) * packs[sku])
        for part, sku in vocabulary.SKU_IDS.items()
        if used[sku]
    ]


def _add_groups(tenant: Tenant, rng: random.Random, count: int) -> None:
    members = [person.id for person in tenant.people.values() if not person.guest]
    if not members:
        return
    everyone = list(tenant.people)
    pools = [everyone, *_by_department(tenant).values()]
    names = [EVERYBODY, *_group_names(rng, max(count, 1) - 1)]
    for number, name in enumerate(names):
        pool = members if number == 0 else rng.choice(pools)
        most = max(1, int(len(everyone) * LARGEST_GROUP_SHARE))
        size = len(pool) if number == 0 else min(int(3 * rng.paretovariate(0.9)), len(pool), most)
        kind = "distribution" if number == 0 else rng.choices(("unified", "security", "distribution"), (5, 3, 2))[0]
        alias = re.sub(r"[^a-z0-9]+", "-", _ascii(name).lower())
        group = Group(
            id=_guid(rng),
            name=name,
            mail=None if kind == "security" else f"{alias}@{tenant.domain}",
            kind=kind,
            created=_between(rng, tenant.created, tenant.now),
            member_ids=set(rng.sample(pool, size)),
            owner_ids=tuple(rng.sample(members, min(len(members), rng.randrange(1, 4)))),
        )
        tenant.groups[group.id] = group


def _group_names(rng: random.Random, count: int) -> list[str]:
    """Different names; a number joins a name that is taken."""
    seen: Counter[str] = Counter()
    names = []
    for _ in range(count):
        name = f"{rng.choice(vocabulary.GROUP_TOPICS)} {rng.choice(vocabulary.GROUP_NOUNS)}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names


def _edit(person: Person, sequence: int, rng: random.Random) -> None:
    """One visible edit: a title, an office, or the account switched on or off."""
    aspects = ("title", "office", "enabled") if not person.guest else ("enabled",)
    match rng.choice(aspects):
        case "title":
            titles = next(d.titles for d in vocabulary.DEPARTMENTS if d.name == person.department)
            person.job_title = rng.choice([title for title in titles if title != person.job_title])
        case "office":
            others = [office for office in vocabulary.OFFICES if office[0] != person.office]
            person.office, person.city, person.country = rng.choice(others)
        case _:
            person.enabled = not person.enabled
    person.changed = sequence


def _remove(tenant: Tenant, leavers: set[str]) -> int:
    """Take people out of the directory, the groups and the reporting lines; returns the memberships that ended."""
    above = {person_id: tenant.people[person_id].manager_id for person_id in leavers}
    for person_id in sorted(leavers):
        del tenant.people[person_id]
        tenant.removed_people[person_id] = tenant.sequence
    if leavers:
        for person in tenant.people.values():
            if person.manager_id in above:
                person.manager_id = _next_above(person.manager_id, above)
                person.changed = tenant.sequence
    ended = 0
    for group in tenant.groups.values():
        gone = sorted(group.member_ids & leavers)
        if gone:
            group.member_ids.difference_update(gone)
            group.member_changes.extend((tenant.sequence, person_id, False) for person_id in gone)
            group.changed = tenant.sequence
            ended += len(gone)
        if leavers.intersection(group.owner_ids):
            group.owner_ids = tuple(owner for owner in group.owner_ids if owner not in leavers)
            group.changed = tenant.sequence
    return ended


def _next_above(manager: str | None, above: dict[str, str | None]) -> str | None:
    while manager in above:
        manager = above[manager]
    return manager


def _move_members(tenant: Tenant, rng: random.Random, count: int) -> int:
    """In `count` groups (at least one when anything is to change) somebody leaves and somebody joins."""
    groups = rng.sample(sorted(tenant.groups), min(len(tenant.groups), count))
    everyone = list(tenant.people)
    moved = 0
    for group in (tenant.groups[group_id] for group_id in groups):
        joiner = rng.choice(everyone) if everyone else None
        leaver = rng.choice(sorted(group.member_ids)) if group.member_ids else None
        for person_id, added in ((leaver, False), (joiner, True)):
            if person_id is None or (person_id in group.member_ids) is added:
                continue
            (group.member_ids.add if added else group.member_ids.discard)(person_id)
            group.member_changes.append((tenant.sequence, person_id, added))
            group.changed = tenant.sequence
            moved += 1
    return moved


def _by_department(tenant: Tenant) -> dict[str, list[str]]:
    departments: dict[str, list[str]] = {}
    for person in tenant.people.values():
        if not person.guest:
            departments.setdefault(person.department, []).append(person.id)
    return departments


def _between(rng: random.Random, start: datetime, end: datetime) -> datetime:
    return start + timedelta(seconds=rng.randrange(max(1, int((end - start).total_seconds()))))


def _guid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _ascii(text: str) -> str:
    folded = text.translate(vocabulary.WITHOUT_ACCENT_FORM)
    return unicodedata.normalize("NFKD", folded).encode("ascii", "ignore").decode()
