"""Every error of ours: it survives the way between two processes, and is raised with the facts its sentence names."""

from __future__ import annotations

import ast
import copy
import importlib
import pickle
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from domain.errors import Malformed, PermanentError, TenantryError, TransientError, UsageError

ROOT = Path(__file__).parents[2]
PACKAGES = [path.parent for path in sorted(ROOT.glob("*/__init__.py")) if path.parent.name != "simulator"]
"""The simulator knows nothing of ours and has words of its own."""
BRANCHES = {TenantryError, TransientError, PermanentError, UsageError}


@cache
def sources() -> dict[str, ast.Module]:
    """Module name to its source, of every package that knows the language."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text())
        for package in PACKAGES
        for path in package.rglob("*.py")
    }


@cache
def kinds() -> dict[str, type[TenantryError]]:
    """Every error class by its name, wherever it is defined."""
    found: dict[str, type[TenantryError]] = {}
    before, names = -1, {"TenantryError"}
    while len(names) > before:
        before = len(names)
        for module, tree in sources().items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & names:
                    names.add(node.name)
                    found[node.name] = getattr(importlib.import_module(module), node.name)
    return {"TenantryError": TenantryError, **found}


def facts(kind: type[TenantryError]) -> list[str | float]:
    """One fact for each place in the sentence, of the type that its format asks for."""
    places = {int(name): spec for _, name, spec, _ in string.Formatter().parse(kind.sentence) if name}
    return [1.5 if (places.get(n) or "").endswith("f") else f"fact {{{n}}}" for n in range(max(places, default=-1) + 1)]


def raised() -> Iterator[tuple[str, str, ast.Call]]:
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds():
                yield f"{module}:{node.lineno}", node.func.id, node


@pytest.mark.parametrize("name", kinds())
def test_an_error_survives_pickling_with_the_same_sentence(name: str) -> None:
    error = kinds()[name](*facts(kinds()[name]))
    for arrived in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert type(arrived) is type(error)
        assert arrived.args == error.args
        assert str(arrived) == str(error)
        assert str(error)


@pytest.mark.parametrize("name", kinds())
def test_an_error_is_either_transient_or_permanent_and_only_its_sentence_is_its_own(name: str) -> None:
    kind = kinds()[name]
    assert issubclass(kind, TransientError) + issubclass(kind, PermanentError) == (kind is not TenantryError)
    assert "__init__" not in vars(kind)
    assert kind in BRANCHES or "sentence" in vars(kind)
    assert kind.__doc__


def test_every_error_is_given_the_facts_its_sentence_names() -> None:
    wrong = [
        f"{place}: {name} takes {len(facts(kinds()[name]))} facts"
        for place, name, call in raised()
        if not any(isinstance(argument, ast.Starred) for argument in call.args)
        and (call.keywords or len(call.args) < len(facts(kinds()[name])))
    ]
    assert wrong == []


def test_the_tree_in_the_docstring_names_every_error_of_the_language() -> None:
    errors = importlib.import_module("domain.errors")
    ours = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, TenantryError)}
    assert ours <= set(str(errors.__doc__).replace(",", " ").split())


def test_braces_in_a_fact_are_left_as_they_are() -> None:
    assert (
        str(Malformed("tenant id", "{0.__class__}", "a GUID")) == "'{0.__class__}' is not a tenant id: expected a GUID."
    )
