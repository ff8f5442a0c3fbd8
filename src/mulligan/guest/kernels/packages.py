"""Entering a set of packages in an interpreter that runs already.

A set is a virtual environment (pyvenv.cfg, ``bin/python``) that also has the system's packages. An
interpreter started from its ``bin/python`` would have found it itself; this does what ``site`` does
there (``site.venv``) where the interpreter is the zygote's child, or a kernel.

In a kernel this file is laid beside the runner: it imports nothing of ours.
"""

from __future__ import annotations

import os
import sys

POOL = "/packages/"


def enter(place: str | None) -> None:
    """Makes this interpreter one of the virtual environment at ``place``, if that is a set."""
    if not place or not place.startswith(POOL) or sys.prefix == place:
        return
    import site

    system = [path for path in site.PREFIXES if not path.startswith(POOL)]
    library = f"{place}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    others = {*site.getsitepackages(system), site.getusersitepackages()}
    sys.prefix = sys.exec_prefix = place
    sys.executable = f"{place}/bin/python"
    site.PREFIXES[:] = [place, *system]
    before = list(sys.path)
    site.addsitedir(library)
    new = [path for path in sys.path if path not in before]
    at = [number for number, path in enumerate(before) if path in others or path.startswith(POOL)]
    place_at = at[0] if at else len(before)
    sys.path[:] = [*before[:place_at], *new, *before[place_at:]]


def follow() -> None:
    """Enters what the environment names."""
    enter(os.environ.get("VIRTUAL_ENV"))
