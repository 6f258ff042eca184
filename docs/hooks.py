"""Puts the generated parts into the pages: `<!-- fields: NAME -->` becomes the hyper-parameter table of a strategy, and
`<!-- strategies -->` the table of all of them, both read from the code."""

from __future__ import annotations

import re
from typing import Any

from zoopt import registry
from zoopt.strategy import field_docs

_FIELDS = re.compile(r"<!-- fields: ([\w-]+) -->")


def fields_table(name: str) -> str:
    """The hyper-parameters of a strategy as a table."""
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for doc in field_docs(registry.load(name)):
        kind = doc.type.replace("|", "\\|")
        rows.append(f"| `{doc.name}` | `{kind}` | `{doc.default}` | {doc.doc} |")
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


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the placeholders of one page (called by MkDocs)."""
    markdown = _FIELDS.sub(lambda match: fields_table(match[1]), markdown)
    return markdown.replace("<!-- strategies -->", strategies_table()) if "<!-- strategies -->" in markdown else markdown
