"""What the benchmark scripts share: cases in fresh processes, interleaved, and a table of ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers" / "bin" / "python"

Figures = dict[str, float]
Case = Callable[[int], Figures]


def parser(description: str) -> argparse.ArgumentParser:
    """The options every script has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--repeats", type=int, default=5, help="fresh processes per case, interleaved")
    options.add_argument("--quick", action="store_true", help="a tenth of the size, to see that it runs")
    options.add_argument("--case", help=argparse.SUPPRESS)
    options.add_argument("--n", type=int, default=0, help=argparse.SUPPRESS)
    return options


def write(line: str = "") -> None:
    """One line of the report."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def machine() -> str:
    """The machine in one line."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}, one thread, load {os.getloadavg()[0]:.1f}"


def run_case(script: Path, name: str, n: int, python: Path | str = sys.executable) -> Figures:
    """One case in a fresh process, one thread; it prints its figures as JSON on its last line."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    out = subprocess.run([str(python), str(script), "--case", name, "--n", str(n)], env=env, capture_output=True, text=True)
    if out.returncode != 0:
        raise SystemExit(f"{script.name} --case {name} failed:\n{out.stderr[-3000:]}")
    figures: Figures = json.loads(out.stdout.strip().splitlines()[-1])
    return figures


def collect(cases: Sequence[tuple[Path, str, int, Path | str]], repeats: int) -> dict[str, list[Figures]]:
    """All cases in turn, ``repeats`` times, so that a drift of the machine meets all of them."""
    found: dict[str, list[Figures]] = {name: [] for _, name, _, _ in cases}
    for _ in range(repeats):
        for script, name, n, python in cases:
            found[name].append(run_case(script, name, n, python))
    return found


def spread(values: Sequence[float]) -> str:
    """Smallest, median and largest."""
    return f"{min(values):10.4g} {statistics.median(values):10.4g} {max(values):10.4g}"


def median(found: Mapping[str, list[Figures]], case: str, figure: str) -> float:
    """Median of one figure of one case."""
    return statistics.median(f[figure] for f in found[case])


def ratio_line(found: Mapping[str, list[Figures]], slow: str, fast: str, figure: str, goal: str) -> str:
    """The ratio of two cases repetition by repetition: smallest, median, largest, and the goal."""
    ratios = [a[figure] / b[figure] for a, b in zip(found[slow], found[fast], strict=True)]
    return f"{slow + ' / ' + fast:<58} {figure:<5} {spread(ratios)}   goal {goal}"


def begin(description: str, cases: Mapping[str, Case]) -> argparse.Namespace:
    """The options, below the settings and the machine; a process that was started for one case runs it and ends here."""
    given = parser(description).parse_args()
    if given.case:
        write(json.dumps(cases[given.case](given.n)))
        sys.exit(0)
    write(description)
    write(machine())
    return given
