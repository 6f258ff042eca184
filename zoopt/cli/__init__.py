"""The command line: a thin shell over the Python API. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the ``zoopt`` script."""
    from zoopt import _clash

    if (clash := _clash.explain()) is not None:
        sys.stderr.write(f"zoopt: {clash}\n")
        if not _clash.ours():
            raise SystemExit(2)
    from zoopt.cli.app import app

    app(prog_name="zoopt")
