"""What the benchmark scripts share: cases in fresh processes, interleaved, and a table of ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers" / "bin" / "python"

VERSIONS = ("zoopt-toolkit", "torch", "numpy", "SQLAlchemy", "cma", "pymoo")

Figures = dict[str, float]
Case = Callable[[int, Path], Figures]


def parser(description: str) -> argparse.ArgumentParser:
    """The options every script has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--repeats", type=int, default=5, help="fresh processes per case, interleaved")
    options.add_argument("--quick", action="store_true", help="a tenth of the size, to see that it runs")
    options.add_argument("--folder", type=Path, default=Path(), help="where a folder for all databases is made, the current one by default")
    options.add_argument("--case", help=argparse.SUPPRESS)
    options.add_argument("--n", type=int, default=0, help=argparse.SUPPRESS)
    return options


def write(line: str = "") -> None:
    """One line of the report."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def machine() -> str:
    """The machine and the versions that matter, a line each."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    hardware = f"{os.cpu_count()} x {model}, Python {platform.python_version()}, one thread, load {os.getloadavg()[0]:.1f}"
    return f"{hardware}\n{', '.join(f'{name} {version(name)}' for name in VERSIONS)}"


def file_system(folder: Path) -> str:
    """Type of the file system on which a folder lies."""
    place = folder.resolve()
    mounts = (line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    return max((len(where), kind) for where, kind in mounts if place.is_relative_to(where.replace("\\040", " ")))[1]


def run_case(script: Path, name: str, n: int, python: Path | str, folder: Path) -> Figures:
    """One case in a fresh process, one thread; it prints its figures as JSON on its last line."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [str(python), str(script), "--case", name, "--n", str(n), "--folder", str(folder)]
    out = subprocess.run(command, env=env, capture_output=True, text=True)
    if out.returncode != 0:
        raise SystemExit(f"{script.name} --case {name} failed:\n{out.stderr[-3000:]}")
    figures: Figures = json.loads(out.stdout.strip().splitlines()[-1])
    return figures


def collect(cases: Sequence[tuple[Path, str, int, Path | str]], given: argparse.Namespace) -> dict[str, list[Figures]]:
    """All cases in turn, ``--repeats`` times, so that a drift of the machine meets all of them; their databases in one new folder."""
    found: dict[str, list[Figures]] = {name: [] for _, name, _, _ in cases}
    with tempfile.TemporaryDirectory(prefix="zoopt-bench-", dir=given.folder.absolute()) as folder:
        write(f"databases in {folder}, {file_system(Path(folder))}")
        for _ in range(given.repeats):
            for script, name, n, python in cases:
                found[name].append(run_case(script, name, n, python, Path(folder)))
    return found


def spread(values: Sequence[float]) -> str:
    """Smallest, median and largest."""
    return f"{min(values):10.4g} {statistics.median(values):10.4g} {max(values):10.4g}"


def ratio_line(found: Mapping[str, list[Figures]], slow: str, fast: str, figure: str, goal: str) -> str:
    """The ratio of two cases repetition by repetition: smallest, median, largest, and the goal."""
    ratios = [a[figure] / b[figure] for a, b in zip(found[slow], found[fast], strict=True)]
    return f"{slow + ' / ' + fast:<58} {figure:<5} {spread(ratios)}   goal {goal}"


def begin(description: str, cases: Mapping[str, Case], extra: Mapping[str, str] = MappingProxyType({})) -> argparse.Namespace:
    """The options, below the settings and the machine; a process that was started for one case runs it and ends here.

    Args:
        description: The settings.
        cases: What a process may be started for.
        extra: Further options that take a text, and what they mean.
    """
    options = parser(description)
    for name, meaning in extra.items():
        options.add_argument(f"--{name}", default="", help=meaning)
    given = options.parse_args()
    if given.case:
        write(json.dumps(cases[given.case](given.n, given.folder)))
        sys.exit(0)
    write(description)
    write(machine())
    write(f"repetitions: {given.repeats}{'; a part of the size (--quick)' if given.quick else ''}")
    return given
