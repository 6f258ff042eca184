"""What a user installs: the wheel and the sdist, built from a copy of the checkout and installed into an environment of their own."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = {"zoopt": "zoopt", "strategies": "zoopt/strategies", "surrogates": "zoopt/surrogates", "problems": "zoopt/problems"}
KINDS = ("strategies", "surrogates", "problems")
DEPENDENCIES = Path(str(pytest.__file__)).parents[1]  # where the installed dependencies of this environment lie


def run(*command: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")} | environ
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def shipped_files() -> set[str]:
    """Every file of the four folders, by its place in the wheel."""
    return {
        f"{place}/{path.relative_to(ROOT / room).as_posix()}"
        for room, place in ROOMS.items()
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks of the package, so that a build leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for room in (*ROOMS, "tests"):
        shutil.copytree(ROOT / room, copy / room, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def build_wheel(folder: Path, into: Path) -> Path:
    done = run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", into, ".", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("sdist")
    done = run(sys.executable, "-c", f"from setuptools.build_meta import build_sdist; build_sdist({str(into)!r})", cwd=source)
    assert done.returncode == 0, done.stderr
    (archive,) = into.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and borrows the dependencies of this one."""
    home = tmp_path_factory.mktemp("environment")
    done = run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    assert done.returncode == 0, done.stderr
    interpreter = home / "bin" / "python"
    site = site_packages(interpreter)
    (site / "dependencies.pth").write_text(f"{DEPENDENCIES}\n", encoding="utf-8")
    command = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        interpreter,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        wheel,
    )
    done = run(*command, cwd=home)
    assert done.returncode == 0, done.stderr
    assert (site / "zoopt").is_dir()
    return interpreter


def site_packages(interpreter: Path) -> Path:
    done = run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=interpreter.parent)
    return Path(done.stdout.strip())


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


# ---- what is declared ------------------------------------------------------------------------------------------------------------------


def test_package_list_names_every_folder() -> None:
    """A forgotten sub-package works in an editable install and is missing from the wheel."""
    found = {
        ".".join((*place.split("/"), *init.parent.relative_to(ROOT / room).parts))
        for room, place in ROOMS.items()
        for init in (ROOT / room).rglob("__init__.py")
    }
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(found)


def test_every_folder_with_modules_is_a_package() -> None:
    for room in ROOMS:
        for module in (ROOT / room).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent} holds modules and has no __init__.py"


@pytest.mark.parametrize("kind", KINDS)
def test_entry_points_name_classes_with_a_summary(kind: str) -> None:
    for name, target in PROJECT["project"]["entry-points"][f"zoopt.{kind}"].items():
        module, _, attribute = target.partition(":")
        path = ROOT / kind / (module.removeprefix(f"zoopt.{kind}.").replace(".", "/") + ".py")
        if not path.exists():
            path = path.with_suffix("") / "__init__.py"
        classes = {
            node.name: node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assert ast.get_docstring(classes[attribute]), f"{name}: {target} has no docstring, its line in `zoopt {kind}` would be empty"


@pytest.mark.parametrize("kind", KINDS)
def test_type_checkers_see_what_is_registered(kind: str) -> None:
    tree = ast.parse((ROOT / kind / "__init__.py").read_text(encoding="utf-8"))
    shown = {f"{node.module}:{alias.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(PROJECT["project"]["entry-points"][f"zoopt.{kind}"].values()) <= shown


def test_pins_are_complete_and_plain() -> None:
    """Everything that the core, the postgres extra and the development tools pull in has exactly one plain pin."""
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
            assert match, f"not a plain pin: {line!r}"
            pins[canonicalize_name(match[1])] = match[2]
    assert pins["torch"] == "2.13.0"
    extras = PROJECT["project"]["optional-dependencies"]
    todo = [Requirement(text) for text in (*PROJECT["project"]["dependencies"], *extras["dev"], *extras["postgres"])]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        assert key[0] in pins, f"{requirement} has no pin in constraints.txt"
        assert requirement.specifier.contains(pins[key[0]]), f"the pin {pins[key[0]]} is outside {requirement}"
        try:
            further = requires(requirement.name) or []
        except PackageNotFoundError:  # an environment without the development tools
            continue
        for text in further:
            inner = Requirement(text)
            environments = [{"extra": extra} for extra in (*requirement.extras, "")]
            if inner.marker is None or any(inner.marker.evaluate(environment) for environment in environments):
                if not inner.name.startswith(("nvidia-", "cuda-", "triton")):  # torch pins those itself
                    todo.append(inner)


def test_no_file_imports_a_room_by_its_folder() -> None:
    """In the checkout ``import strategies`` works too, and would load every module a second time."""
    for folder in (*ROOMS, "tests", "examples", "benchmarks", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = (
                    [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
                assert not {name.partition(".")[0] for name in names} & set(KINDS), f"{path}:{getattr(node, 'lineno', 0)}"


# ---- what is built ---------------------------------------------------------------------------------------------------------------------


def test_wheel_holds_every_file_and_one_top_level_name(wheel: Path) -> None:
    files = files_of(wheel)
    assert {name.partition("/")[0] for name in files} == {"zoopt", wheel.name.rpartition("-py3")[0] + ".dist-info"}
    assert {name for name in files if name.startswith("zoopt/")} == shipped_files()
    assert {f"{place}/py.typed" for place in ROOMS.values()} <= files
    assert any(name.endswith("LICENSE") for name in files)


def test_make_does_not_bring_back_a_deleted_module(source: Path, tmp_path: Path) -> None:
    """setuptools packs whatever an earlier build left in build/lib, and make must see that a file is gone."""
    if not shutil.which("make"):
        pytest.skip("there is no make on this machine")
    copy = tmp_path / "checkout"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.egg-info", "build"))
    gone = copy / "strategies" / "gone.py"
    gone.write_text('"""Was here."""\n', encoding="utf-8")

    def packed() -> bool:
        done = run(
            "make", ".venv-wheel/.installed", "--old-file=.venv/.installed", f"BIN={Path(sys.executable).parent}", cwd=copy, MAKEFLAGS=""
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (wheel,) = (copy / "dist").glob("*.whl")
        return "zoopt/strategies/gone.py" in files_of(wheel)

    assert packed()
    time.sleep(0.1)  # times of files are only so fine
    gone.unlink()
    assert not packed()


def test_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "tests/test_packaging.py"):
        assert (folder / name).is_file(), name
    (tmp_path / "again").mkdir()
    assert files_of(build_wheel(folder, tmp_path / "again")) == files_of(wheel)


# ---- what is installed -----------------------------------------------------------------------------------------------------------------


def test_installed_package_has_all_rooms_and_no_generic_name(python: Path) -> None:
    site = site_packages(python)
    ours = {path.name for path in site.iterdir() if not path.name.endswith((".pth", ".dist-info"))}
    assert ours == {"zoopt"}
    code = "import zoopt, zoopt.strategies as a, zoopt.surrogates as b, zoopt.problems as c\nfor m in (zoopt, a, b, c): print(m.__file__)"
    done = run(python, "-c", code, cwd=site.parent)
    assert done.returncode == 0, done.stderr
    assert [Path(line) for line in done.stdout.split()] == [site / place / "__init__.py" for place in ROOMS.values()]
    for kind in KINDS:
        done = run(python, "-c", f"import {kind}", cwd=site.parent)
        assert "ModuleNotFoundError" in done.stderr


def test_installed_entry_points_are_the_declared_ones(python: Path) -> None:
    code = f"from zoopt import registry; print(*(f'{{k}}:{{n}}' for k in {KINDS} for n in registry.names(k)))"
    done = run(python, "-c", code, cwd=python.parent)
    assert done.returncode == 0, done.stderr
    declared = {f"{kind}:{name}" for kind in KINDS for name in PROJECT["project"]["entry-points"][f"zoopt.{kind}"]}
    assert declared <= set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import zoopt", "import zoopt.strategies, zoopt.surrogates, zoopt.problems", "import zoopt.cli"])
def test_importing_a_package_loads_nothing_heavy(python: Path, statement: str) -> None:
    heavy = "{'torch', 'botorch', 'gpytorch', 'scipy', 'pandas', 'pymoo', 'cma', 'sqlalchemy', 'plotly', 'sklearn', 'matplotlib'}"
    done = run(python, "-c", f"{statement}; import sys; print(*sorted({heavy} & set(sys.modules)))", cwd=python.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_test_run_uses_the_installed_wheel() -> None:
    """`make test` sets the variable: from then on nothing may come from the checkout."""
    if not os.environ.get("ZOOPT_TEST_INSTALLED"):
        pytest.skip("this run is on the checkout, not on an installed wheel")
    import zoopt
    import zoopt.problems
    import zoopt.strategies
    import zoopt.surrogates

    for module in (zoopt, zoopt.strategies, zoopt.surrogates, zoopt.problems):
        assert Path(str(module.__file__)).is_relative_to(sysconfig.get_path("purelib"))


USER_SCRIPT = """
from typing import Any, assert_type

import zoopt
from zoopt import Choice, Integer, Real, Space
from zoopt.problems import Rastrigin
from zoopt.strategies import CMAES

space = Space({"C": Real(1e-3, 1e3, log=True), "depth": Integer(1, 12), "kernel": Choice("rbf", "poly")})


def accuracy(C: float, depth: int, kernel: str) -> float:
    return C * depth


study = zoopt.Study(space, strategy="bo", direction="maximize", seed=0)
trial = study.ask()
assert_type(trial, zoopt.Trial)
assert_type(trial.params, dict[str, Any])
study.tell(trial, accuracy(**trial.params))
batch = study.ask(16)
assert_type(batch, zoopt.Batch)
best = study.best
if best is not None:
    value: float | None = best.value
result = zoopt.minimize(Rastrigin(dim=20), CMAES(), evaluations=1000)
assert_type(result, zoopt.Result)
"""


def check_types(python: Path, folder: Path, script: str) -> str:
    (folder / "script.py").write_text(script, encoding="utf-8")
    cache = ROOT / ".mypy_cache" / "user"  # torch's types are read once for all runs
    done = run(python, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", cache, "script.py", cwd=folder)
    return done.stdout + done.stderr


def test_strict_user_script_passes_on_the_installed_wheel(python: Path, tmp_path: Path) -> None:
    assert "Success" in check_types(python, tmp_path, USER_SCRIPT)


def test_wrong_user_script_is_caught_on_the_installed_wheel(python: Path, tmp_path: Path) -> None:
    """The types are seen, not taken for Any."""
    found = check_types(
        python, tmp_path, USER_SCRIPT + 'Real(low="a")\nzoopt.Study(space, direction="up")\nCMAES(particles=3)\nRastrigin(dim="x")\n'
    )
    lines = [line for line in found.splitlines() if ": error:" in line]
    assert len(lines) == 4, found


# ---- the other zoopt -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken_site(python: Path, tmp_path: Path) -> Path:
    """A copy of the installed package that a test may spoil; used by PYTHONPATH, so it comes before the real one."""
    shutil.copytree(site_packages(python) / "zoopt", tmp_path / "zoopt", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def add_other(site: Path) -> None:
    info = site / "zoopt-0.4.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoopt\nVersion: 0.4.2\n", encoding="utf-8")


def test_no_clash_is_reported_where_there_is_none(python: Path, broken_site: Path) -> None:
    done = run(
        python, "-c", "import zoopt; from zoopt import _clash; print(_clash.explain())", cwd=python.parent, PYTHONPATH=str(broken_site)
    )
    assert done.stdout.strip() == "None", done.stderr


def test_command_line_warns_of_the_other_zoopt_and_goes_on(python: Path, broken_site: Path) -> None:
    add_other(broken_site)
    done = run(python, "-c", "from zoopt.cli import main; main()", cwd=python.parent, PYTHONPATH=str(broken_site), COLUMNS="400")
    assert "zoopt (0.4.2) is installed beside zoopt-toolkit" in done.stderr
    assert "pip uninstall -y zoopt" in done.stderr


def test_python_warns_of_the_other_zoopt_and_goes_on(python: Path, broken_site: Path) -> None:
    add_other(broken_site)
    done = run(python, "-c", "import zoopt; print(zoopt.Study.__name__)", cwd=python.parent, PYTHONPATH=str(broken_site))
    assert done.stdout.strip() == "Study"
    assert "zoopt (0.4.2) is installed beside zoopt-toolkit" in done.stderr
    silent = run(python, "-W", "error", "-c", "import zoopt; zoopt.Study", cwd=python.parent)
    assert silent.returncode == 0, silent.stderr


def test_failed_import_is_explained_by_the_other_zoopt(python: Path, broken_site: Path) -> None:
    add_other(broken_site)
    (broken_site / "zoopt" / "study.py").unlink()
    done = run(python, "-c", "import zoopt; zoopt.Study", cwd=python.parent, PYTHONPATH=str(broken_site))
    assert "zoopt.Study: another project called zoopt (0.4.2)" in done.stderr


def stopped(python: Path, **environ: str) -> bool:
    done = run(python, "-c", "from zoopt.cli import main; main()", cwd=python.parent, COLUMNS="400", **environ)
    return done.returncode == 2 and "belongs to another project" in done.stderr and "--force-reinstall" in done.stderr


def test_command_line_stops_when_the_other_zoopt_was_installed_over_it(python: Path, broken_site: Path) -> None:
    (broken_site / "zoopt" / "__init__.py").write_text("class Opt: ...\n", encoding="utf-8")
    assert stopped(python, PYTHONPATH=str(broken_site))


def test_command_line_stops_when_uninstalling_the_other_zoopt_took_a_file_along(python: Path) -> None:
    if (DEPENDENCIES / "zoopt").exists():
        pytest.skip("a second, whole zoopt lies beside the dependencies and would be found instead")
    init = site_packages(python) / "zoopt" / "__init__.py"
    init.rename(init.with_suffix(".away"))
    try:
        assert stopped(python)
    finally:
        init.with_suffix(".away").rename(init)


# ---- static tools in the checkout ------------------------------------------------------------------------------------------------------


def test_link_tree_shows_all_rooms_and_keeps_foreign_files(tmp_path: Path) -> None:
    for place in ("zoopt/cli", "strategies", "surrogates", "problems", "tools"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "__init__.py").write_text(f"# {place}\n", encoding="utf-8")
    script = shutil.copy(ROOT / "tools" / "link_tree.py", tmp_path / "tools")
    (tmp_path / "strategies" / "old.py").touch()
    assert run(sys.executable, script, cwd=tmp_path).returncode == 0
    (tmp_path / "strategies" / "old.py").rename(tmp_path / "strategies" / "new.py")
    assert run(sys.executable, script, cwd=tmp_path).returncode == 0
    tree = tmp_path / "build" / "static" / "zoopt"
    assert (tree / "cli" / "__init__.py").read_text(encoding="utf-8") == "# zoopt/cli\n"
    assert (tree / "problems" / "__init__.py").read_text(encoding="utf-8") == "# problems\n"
    assert {path.name for path in (tree / "strategies").iterdir()} == {"__init__.py", "new.py"}

    (tree / "mine.py").write_text("work of hours", encoding="utf-8")
    done = run(sys.executable, script, cwd=tmp_path)
    assert "mine.py is not a link" in done.stderr
    assert (tree / "mine.py").read_text(encoding="utf-8") == "work of hours"
