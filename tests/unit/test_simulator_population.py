"""Tenants out of a seed: the same each time, and consistent in themselves."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.population import change, consumed_units, populate
from simulator.vocabulary import WITH_MAILBOX
from simulator.world import Tenant

NOW = datetime(2026, 11, 2, 8, tzinfo=UTC)


def made(seed: int = 1, users: int = 400) -> Tenant:
    return populate(seed=seed, name="Northwind Traders", users=users, now=NOW)


def check(tenant: Tenant) -> None:
    """What must be true of every tenant at any time."""
    people = tenant.people
    assert len({person.upn for person in people.values()}) == len(people)
    assert len({p.employee_id for p in people.values() if not p.guest}) == sum(not p.guest for p in people.values())
    for person in people.values():
        assert person.manager_id is None or person.manager_id in people
        assert person.manager_id != person.id
        assert tenant.created <= person.created <= person.last_sign_in <= tenant.now
        assert (person.mailbox_guid is not None) == any(sku in WITH_MAILBOX for sku in person.sku_ids)
        assert not (person.guest and (person.sku_ids or person.mailbox_guid))
    for group in tenant.groups.values():
        assert group.member_ids <= people.keys()
        assert set(group.owner_ids) <= people.keys()
    used = consumed_units(tenant)
    assert used.keys() <= {sku.id for sku in tenant.skus}
    assert all(sku.enabled_units >= used[sku.id] for sku in tenant.skus)
    assert not tenant.removed_people.keys() & people.keys()
    assert not tenant.removed_groups.keys() & tenant.groups.keys()


def test_the_same_seed_gives_the_same_tenant_and_another_seed_another() -> None:
    assert made() == made()
    assert made() != made(seed=2)
    first, second = made(), made()
    assert [change(first, 0.1) for _ in range(3)] == [change(second, 0.1) for _ in range(3)]
    assert first == second


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), users=st.integers(0, 150), fractions=st.lists(st.floats(0, 1), min_size=0, max_size=4)
)
def test_a_tenant_stays_consistent_through_any_changes(seed: int, users: int, fractions: list[float]) -> None:
    tenant = made(seed, users)
    assert len(tenant.people) == users
    check(tenant)
    for fraction in fractions:
        change(tenant, fraction)
        check(tenant)


def test_a_change_touches_about_the_fraction_and_is_marked() -> None:
    tenant = made(users=2000)
    before = {group.id: set(group.member_ids) for group in tenant.groups.values()}
    people = set(tenant.people)
    counts = change(tenant, 0.1)
    assert (counts["edited"], counts["added"], counts["removed"]) == (100, 50, 50)
    assert tenant.sequence == 2
    assert set(tenant.removed_people.values()) == {2}
    joined = tenant.people.keys() - people
    assert len(joined) == 50
    assert all(tenant.people[person].changed == 2 for person in joined)
    for group in tenant.groups.values():
        members = before[group.id]
        for sequence, person, added in group.member_changes:
            assert sequence == 2
            (members.add if added else members.discard)(person)
        assert members == group.member_ids


def test_no_change_at_all_only_moves_the_sequence() -> None:
    tenant = made()
    assert sum(change(tenant, 0).values()) == 0
    assert tenant.sequence == 2
    with pytest.raises(ValueError, match="between 0 and 1"):
        change(tenant, 1.1)


def test_people_are_correlated_and_groups_are_skewed() -> None:
    tenant = made(users=3000)
    sizes = sorted((len(group.member_ids) for group in tenant.groups.values()), reverse=True)
    assert len(sizes) == 250
    assert sizes[0] > 2000
    assert sizes[len(sizes) // 2] < 15
    assert {group.kind for group in tenant.groups.values()} == {"unified", "security", "distribution"}
    cities = {person.office: person.city for person in tenant.people.values() if not person.guest}
    assert all(p.city == cities[p.office] for p in tenant.people.values() if not p.guest)
    disabled = [person for person in tenant.people.values() if not person.enabled and not person.guest]
    assert disabled
    assert any(person.guest for person in tenant.people.values())
