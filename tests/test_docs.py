"""Every code block in README, CONTRIBUTING and docs runs, in order, one namespace and one empty folder a page.

Python blocks are executed. A block with ``title="name"`` is written to that file first; one called study.toml must be read by a command
of its page. Lines of shell blocks that call ``zoopt`` are run; the other commands (make, pip) are what CI itself runs.
"""

from __future__ import annotations

import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import ruff as ruff_package
import yaml

import zoopt
from zoopt import Capabilities, Study, registry
from zoopt.stop import Target
from zoopt.surrogates import GP

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

FAILING = ("ask-tell.md", "failures.md")  # pages on which trials fail
SCRIPT = "import sys\nsys.stdout.write(str(float(sys.argv[2]) ** 2))\n"  # stands for a user's training script


def blocks(page: Path) -> list[tuple[str, str | None, str]]:
    return [(kind, title, code) for kind, title, code in BLOCK.findall(page.read_text(encoding="utf-8"))]


def pages_with_code() -> list[Path]:
    return [page for page in PAGES if blocks(page)]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", pages_with_code(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # study files say `python`
    text = page.read_text(encoding="utf-8")
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look their module up
    for kind, title, code in blocks(page):
        if title:
            Path(title).write_text(code, encoding="utf-8")
        if kind == "toml":
            tomllib.loads(code)
            if title == "study.toml":
                assert re.search("^zoopt (check|run) study.toml", text, re.MULTILINE), "no command of this page reads its study file"
                if not Path("train.py").exists():
                    Path("train.py").write_text(SCRIPT, encoding="utf-8")
        elif kind == "python" and not title:
            line = text[: text.index(code)].count("\n")
            exec(compile("\n" * line + code, str(page), "exec"), module.__dict__)  # noqa: S102 (that is the test)
        elif kind == "sh":
            for command in re.findall(r"^zoopt .*$", code, re.MULTILINE):
                done = subprocess.run([sys.executable, "-m", "zoopt.cli", *command.split()[1:]], capture_output=True, text=True)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    if page.name not in FAILING:
        for study in (thing for thing in module.__dict__.values() if isinstance(thing, Study)):
            assert study.failures == 0, [trial.error for trial in study.trials(range(study.evaluations)) if trial.error]


@pytest.mark.parametrize("name", ["strategies/cloud.py", "surrogates/smooth.py", "problems/bowl.py"])
def test_what_contributing_shows_passes_the_linter_where_it_is_to_stand(name: str) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = BLOCK.search(page, page.index(f"`{name}`"))
    assert code is not None
    ruff = Path(ruff_package.__file__).parents[4] / "bin" / "ruff"  # this environment may borrow it from another one
    for command in ("check", "format --check"):
        arguments = [str(ruff), *command.split(), "--no-cache", "--stdin-filename", str(ROOT / name), "-"]
        done = subprocess.run(arguments, cwd=ROOT, input=code[3], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# ---- the design's own snippets ----------------------------------------------------------------------------------------------------------


def code_lines(code: str) -> list[str]:
    """Lines without comments and alignment, empty ones left out."""
    bare = (" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in code.splitlines())
    return [line for line in bare if line]


def test_the_design_s_snippets_stand_word_for_word_in_the_pages() -> None:
    """They run there (see above); the one that cannot run from top to bottom stands line by line, where each line works."""
    design = ROOT.parent / "shared" / "design.md"
    if not design.exists():
        pytest.skip("the design does not lie beside this checkout")
    section = design.read_text(encoding="utf-8").partition("\n## What using it looks like")[2].partition("\n## ")[0]
    ask_tell, minimize, lines, file = [code_lines(code) for _, _, code in BLOCK.findall(section)]
    shown = [code_lines(code) for page in PAGES for _, _, code in blocks(page)]
    assert [line for line in lines if not any(line in block for block in shown)] == []  # it tells one batch whole and in parts
    for snippet in (ask_tell, minimize, file):
        assert any("\n".join(snippet) in "\n".join(block) for block in shown), snippet


def script(path: Path) -> Any:
    """A script of the checkout that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def hooks() -> Any:
    return script(ROOT / "docs" / "hooks.py")


# ---- the navigation and the generated parts ---------------------------------------------------------------------------------------------


def test_every_strategy_has_a_page() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "strategies").glob("*.md")}
    assert set(registry.names()) <= pages, "a registered strategy has no page in docs/strategies"


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from leaves(item)


def test_every_page_is_in_the_navigation_once(hooks: Any) -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config = types.SimpleNamespace(docs_dir=str(ROOT / "docs"), nav=settings["nav"])
    hooks.on_config(config)
    assert sorted(leaves(config.nav)) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_the_generated_tables_name_every_field(hooks: Any) -> None:
    for name in registry.names():
        page = hooks.on_page_markdown(f"<!-- fields: {name} -->")
        for field in fields(registry.load(name)):
            assert f"`{field.name}`" in page
            row = next(line for line in page.splitlines() if line.startswith(f"| `{field.name}` "))
            assert row.rstrip("| ").split("|")[-1].strip(), f"{name}.{field.name} has no comment that says what it means"
    assert all(f"`{name}`" in hooks.strategies_table() for name in registry.names())


# ---- the pages as they are built --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built strictly from a copy, so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("documentation")
    shutil.copytree(ROOT / "docs", copy / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", copy)
    script(ROOT / "tools" / "link_tree.py").link_tree(ROOT, copy / "build" / "static")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "site"


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_the_reference_names_everything_public(site: Path) -> None:
    anchors = set(re.findall(r'id="(zoopt[\w.]*)"', (site / "reference" / "index.html").read_text(encoding="utf-8")))
    missing = [name for name in zoopt.__all__ if not {f"zoopt.{name}", f"{getattr(zoopt, name).__module__}.{name}"} & anchors]
    assert missing == []
    documented = {"zoopt.Capabilities": Capabilities, "zoopt.stop.Target": Target, "zoopt.surrogates.gp.GP": GP}
    assert [f"{place}.{f.name}" for place, cls in documented.items() for f in fields(cls) if f"{place}.{f.name}" not in anchors] == []
    assert "weakest feedback it can learn from" in text_of(site / "reference" / "index.html")


def test_pages_show_no_markup_of_other_tools(site: Path) -> None:
    for page in site.rglob("index.html"):
        text = text_of(page)
        assert re.findall(r":(?:class|meth|func|mod|attr|data|exc):.{0,40}", text) == [], page
        assert "\\|" not in text, page
    assert "int | None" in text_of(site / "strategies" / "bo" / "index.html")
