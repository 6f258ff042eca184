"""Shows static tools the package as users see it: ``build/static/zoopt``, folders of links to the files of the checkout.

``strategies/``, ``surrogates/`` and ``problems/`` import as parts of ``zoopt``, which a static tool cannot know. After this script,

    MYPYPATH=build/static mypy -p zoopt
    (cd build/static; lint-imports --config ../../pyproject.toml)

and ``extraPaths = ["build/static"]`` for pyright see all four. Files are linked, not folders (some tools do not follow a linked folder), so
run it again after a file was added or removed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOMS = {"zoopt": "zoopt", "strategies": "zoopt/strategies", "surrogates": "zoopt/surrogates", "problems": "zoopt/problems"}


def link_tree(checkout: Path, target: Path) -> int:
    """Makes the links under ``target`` anew and returns how many there are; nothing but links and empty folders is ever deleted.

    Raises:
        FileExistsError: When something in the way is not a link.
    """
    for folder, _, files in os.walk(target, topdown=False):
        for name in files:
            old = Path(folder, name)
            if not old.is_symlink():
                raise FileExistsError(f"{old} is not a link made by this script; move it away and run this again.")
            old.unlink()
        if Path(folder) != target:
            Path(folder).rmdir()
    count = 0
    for room, place in ROOMS.items():
        for source in sorted((checkout / room).rglob("*")):
            if source.is_dir() or "__pycache__" in source.parts:
                continue
            link = target / place / source.relative_to(checkout / room)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(source, link.parent))
            count += 1
    return count


def main() -> None:
    """Links this checkout."""
    checkout = Path(__file__).resolve().parents[1]
    sys.stdout.write(f"build/static: {link_tree(checkout, checkout / 'build' / 'static')} links\n")


if __name__ == "__main__":
    main()
