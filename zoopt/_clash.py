"""Notices the other project that is called zoopt on PyPI (ZOOpt), whose files land in the same folder as ours, and says what to do.

Whichever of the two was installed last has overwritten ``zoopt/__init__.py``; uninstalling the other one deletes it. The command line asks
``explain`` when it starts, ``zoopt.__getattr__`` when one of its own modules does not import.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution

_REPAIR = "pip uninstall -y zoopt, then pip install --force-reinstall --no-deps zoopt-toolkit (or its checkout's path)"


def ours() -> bool:
    """Whether the ``zoopt/__init__.py`` that Python has loaded is the one of this project."""
    return getattr(sys.modules.get("zoopt"), "_DISTRIBUTION", None) == "zoopt-toolkit"


def explain() -> str | None:
    """One sentence on what is mixed up and how to repair it, or None when all is well. Costs a look at the installed names (about 1 ms)."""
    try:
        other = f"another project called zoopt ({distribution('zoopt').version}) is installed beside zoopt-toolkit, in the same folder"
    except PackageNotFoundError:
        if ours():
            return None
        return f"zoopt/__init__.py is missing or belongs to another project (ZOOpt, installed or removed later). Repair: {_REPAIR}."
    effect = "either may break at the next install or uninstall" if ours() else "and has replaced zoopt/__init__.py"
    return f"{other}; {effect}. Keep one of them in an environment; to keep this one: {_REPAIR}."
