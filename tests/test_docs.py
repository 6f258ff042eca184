"""Every code block in README, CONTRIBUTING and docs runs, in order, one namespace and one empty folder a page.

Python blocks are executed. A block with ``title="name"`` is written to that file first (and TOML blocks are study files that
must pass the check). Lines of shell blocks that call ``zoopt`` are run; the other commands (make, pip) are what CI itself runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SCRIPT = "import sys\nsys.stdout.write(str(float(sys.argv[2]) ** 2))\n"  # stands for a user's training script


def blocks(page: Path) -> list[tuple[str, str | None, str]]:
    return [(kind, title, code) for kind, title, code in BLOCK.findall(page.read_text(encoding="utf-8"))]


def pages_with_code() -> list[Path]:
    return [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", pages_with_code(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look their module up
    for kind, title, code in blocks(page):
        if title:
            Path(title).write_text(code, encoding="utf-8")
        if kind == "toml":
            tomllib.loads(code)
            if title == "study.toml":
                if not Path("train.py").exists():
                    Path("train.py").write_text(SCRIPT, encoding="utf-8")
                check = subprocess.run([sys.executable, "-m", "zoopt.cli", "check", title], capture_output=True, text=True)
                assert check.returncode == 0, check.stdout + check.stderr
        elif kind == "python" and not title:
            line = page.read_text(encoding="utf-8")[: page.read_text(encoding="utf-8").index(code)].count("\n")
            exec(compile("\n" * line + code, str(page), "exec"), module.__dict__)  # noqa: S102 (that is the test)
        elif kind == "sh":
            for command in re.findall(r"^zoopt .*$", code, re.MULTILINE):
                done = subprocess.run([sys.executable, "-m", "zoopt.cli", *command.split()[1:]], capture_output=True, text=True)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_every_strategy_has_a_page() -> None:
    from zoopt import registry

    pages = {page.stem for page in (ROOT / "docs" / "strategies").glob("*.md")}
    assert set(registry.names()) <= pages, "a registered strategy has no page in docs/strategies"


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in listed, f"{page.name} is missing from mkdocs.yml"


def test_the_generated_tables_name_every_field() -> None:
    import importlib.util
    from dataclasses import fields

    from zoopt import registry

    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    for name in registry.names():
        page = hooks.on_page_markdown(f"<!-- fields: {name} -->")
        for field in fields(registry.load(name)):
            assert f"`{field.name}`" in page
            row = next(line for line in page.splitlines() if line.startswith(f"| `{field.name}` "))
            assert row.rstrip("| ").split("|")[-1].strip(), f"{name}.{field.name} has no comment that says what it means"
    assert all(f"`{name}`" in hooks.strategies_table() for name in registry.names())
