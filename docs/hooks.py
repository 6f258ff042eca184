"""Puts the generated parts into the documentation, all read from the code.

`<!-- fields: NAME -->` in a page becomes the hyper-parameter table of a strategy, `<!-- strategies -->` the table of all of them; every
page about a strategy gets its place in the navigation, and in the reference the comment behind a field is its documentation.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
import tokenize
from pathlib import Path
from typing import Any

import griffe

from zoopt import registry
from zoopt.strategy import field_docs

_FIELDS = re.compile(r"<!-- fields: ([\w-]+) -->")


def _code(text: str) -> str:
    """Code in a cell of a table, where a bar ends the cell even between backticks."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def fields_table(name: str) -> str:
    """The hyper-parameters of a strategy as a table."""
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    rows += [f"| `{d.name}` | {_code(d.type)} | {_code(d.default)} | {d.doc} |" for d in field_docs(registry.load(name))]
    return "\n".join(rows) if len(rows) > 2 else "This strategy has no hyper-parameters."


def strategies_table() -> str:
    """All registered strategies: name, first line, what they learn from."""
    rows = ["| strategy | what it does | learns from | objectives | unbounded variables |", "| --- | --- | --- | --- | --- |"]
    for name in registry.names():
        capabilities = registry.load(name).capabilities
        learns = {"none": "nothing", "ranking": "rankings or values", "values": "values"}[capabilities.feedback]
        several = "1" if capabilities.objectives == 1 else "any number"
        unbounded = "yes" if capabilities.unbounded else "no"
        rows.append(f"| [`{name}`]({name}.md) | {registry.summary(name)} | {learns} | {several} | {unbounded} |")
    return "\n".join(rows)


def on_config(config: Any) -> None:
    """Put every page about a strategy into the navigation (called by MkDocs)."""
    pages = sorted(page.name for page in Path(config.docs_dir, "strategies").glob("*.md") if page.stem != "index")
    for section in config.nav:
        if "Strategies" in section:
            section["Strategies"] += [f"strategies/{page}" for page in pages]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the placeholders of one page (called by MkDocs)."""
    markdown = _FIELDS.sub(lambda match: fields_table(match[1]), markdown)
    return markdown.replace("<!-- strategies -->", strategies_table()) if "<!-- strategies -->" in markdown else markdown


class FieldComments(griffe.Extension):
    """Takes the comment behind a field of a class for its documentation, as the tables of hyper-parameters do."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called by mkdocstrings for every attribute it meets."""
        if attr.docstring is not None or attr.parent is None or not attr.parent.is_class:
            return
        for token in tokenize.generate_tokens(io.StringIO(textwrap.dedent(attr.source)).readline):
            if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:")):
                attr.docstring = griffe.Docstring(token.string.lstrip("# "), parent=attr)
