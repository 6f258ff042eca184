"""Names of strategies, surrogates and problems, found through entry points and imported only when used.

Listings (``names``, ``summary``) read the entry points and the source text; nothing heavy is imported for them.
"""

from __future__ import annotations

import ast
import difflib
import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from zoopt.errors import PluginError, UnknownName

_log = logging.getLogger("zoopt.registry")

Kind = Literal["strategies", "surrogates", "acquisitions", "problems"]


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    """Entry points by name. A name of ours stays ours, and of two plug-ins one has it; a second one is never taken in silence."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=f"zoopt.{kind}"), key=lambda e: (e.name, not e.module.startswith("zoopt."))):
        if (first := found.setdefault(entry.name, entry)).value != entry.value:
            _log.warning(
                "two %s are registered as %r: %s is used and %s is not; give one of them another name.",
                kind,
                entry.name,
                first.value,
                entry.value,
            )
    return found


def names(kind: Kind = "strategies") -> list[str]:
    """Registered names of one kind, sorted."""
    return list(_entries(kind))


def load(name: str, kind: Kind = "strategies") -> Any:
    """The class or function registered as ``name``.

    Raises:
        UnknownName: With the closest registered names.
        PluginError: What is registered under this name cannot be imported.
    """
    entry = _entries(kind).get(name)
    if entry is None:
        close = difflib.get_close_matches(name.casefold(), names(kind), n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"registered are {', '.join(names(kind))}."
        raise UnknownName(f"there is no {_SINGULAR[kind]} called {name!r}; {hint}")
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        source = f" of {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
        raise PluginError(
            f"{_SINGULAR[kind]} {name!r}{source} cannot be imported from {entry.value}: {error}. "
            "Install what it needs, or choose another one."
        ) from error


def name_of(target: type, kind: Kind = "strategies") -> str | None:
    """The name under which a class is registered, or None."""
    path = f"{target.__module__}:{target.__qualname__}"
    return next((name for name, entry in _entries(kind).items() if entry.value == path), None)


def exports(kind: Kind) -> dict[str, str]:
    """What ``from zoopt.<kind> import X`` offers: class or function name -> registered name (ours only, no plug-in's)."""
    return {entry.attr: name for name, entry in _entries(kind).items() if entry.module.startswith(f"zoopt.{kind}.")}


def summary(name: str, kind: Kind = "strategies") -> str:
    """First line of the docstring of ``name``, read from its source without importing it."""
    entry = _entries(kind).get(name)
    if entry is None:
        raise UnknownName(f"there is no {_SINGULAR[kind]} called {name!r}.")
    spec = find_spec(entry.module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == entry.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


_SINGULAR: dict[Kind, str] = {
    "strategies": "strategy",
    "surrogates": "surrogate",
    "acquisitions": "acquisition function",
    "problems": "problem",
}
