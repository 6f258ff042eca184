"""Names of strategies and plug-ins: found in any case of letters, never taken over in silence, and said what they need."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import zoopt
from zoopt import ConfigError, Real, Space, registry
from zoopt.errors import UnknownName
from zoopt.problems import Sphere
from zoopt.strategies import CMAES
from zoopt.strategy import Strategy, field_docs

PLANE = Space({"x": Real(0, 1, shape=(2,))})


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with an installed distribution of plug-ins."""
    info = tmp_path / "my_plugins-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugins\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[zoopt.strategies]\nrandom = my_plugins:Mine\nbroken = my_plugins_broken:Strategy\nodd = my_plugins:odd\n", encoding="utf-8"
    )
    (tmp_path / "my_plugins.py").write_text("class Mine: ...\nodd = 3\n", encoding="utf-8")
    (tmp_path / "my_plugins_broken.py").write_text("import not_installed_anywhere\n", encoding="utf-8")
    return tmp_path


def python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(folder), "PATH": "/usr/bin"}, cwd=folder, capture_output=True, text=True
    )


def test_a_plug_in_does_not_take_over_a_name_of_ours(plugins: Path) -> None:
    done = python(plugins, "import logging; logging.basicConfig(); from zoopt import registry; print(registry.load('random').__module__)")
    assert done.stdout.strip() == "zoopt.strategies.random", done.stderr
    assert "two strategies are registered as 'random'" in done.stderr
    assert "my_plugins:Mine is not" in done.stderr


def test_a_plug_in_that_cannot_be_imported_is_named_with_its_package(plugins: Path) -> None:
    code = "import zoopt\ntry: zoopt.Study(zoopt.Space({'x': zoopt.Real(0, 1)}), 'broken')\nexcept zoopt.ZooptError as e: print(e)"
    done = python(plugins, code)
    assert "strategy 'broken' of my-plugins 1.2 cannot be imported" in done.stdout, done.stderr
    assert "not_installed_anywhere" in done.stdout
    shown = python(plugins, "import sys; sys.argv = ['zoopt', 'strategies', 'broken']; from zoopt.cli import main; main()")
    assert shown.returncode == 2
    assert "my-plugins 1.2" in " ".join(shown.stderr.split())
    assert "report" not in shown.stderr


def test_what_is_no_strategy_is_refused_by_name(plugins: Path) -> None:
    done = python(plugins, "from zoopt.strategy import make\ntry: make('odd')\nexcept ValueError as e: print(e)")
    assert "no class derived from zoopt.Strategy" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["CMA-ES", "cmaes", "cma_es", "Cma-Es"])
def test_a_name_in_another_spelling_is_pointed_to_the_right_one(name: str) -> None:
    with pytest.raises(UnknownName, match="did you mean 'cma-es'"):
        registry.load(name)


def test_a_class_for_a_recipe_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"write CMAES\(\)"):
        zoopt.Study(PLANE, CMAES)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"write CMAES\(\)"):
        zoopt.minimize(Sphere(dim=2), CMAES, evaluations=10)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, 3, print])
def test_what_is_neither_name_nor_recipe_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="registered name or a recipe"):
        zoopt.Study(PLANE, wrong)


def test_types_of_fields_read_the_same_whether_annotations_are_evaluated_or_not() -> None:
    namespace: dict[str, Any] = {"dataclass": dataclass, "Strategy": Strategy, "__name__": __name__}
    exec("@dataclass(frozen=True)\nclass Cloud(Strategy):\n    particles: int = 20\n    width: float | None = None\n", namespace)  # noqa: S102
    assert [doc.type for doc in field_docs(namespace["Cloud"])] == ["int", "float | None"]
