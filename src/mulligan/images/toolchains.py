"""Finding the host's interpreters and compilers, wherever they are installed.

A toolchain is asked where it lives (a version manager puts a small shim on PATH), and the tree it
needs is shown read-only in VMs at the path it has on the host, because paths are built into it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ASK_TIMEOUT_S = 20
SYSTEM_TREES = (Path("/usr"), Path("/bin"), Path("/lib"))


@dataclass(frozen=True)
class Toolchain:
    """An installed language.

    Attributes:
        program: absolute path of its executable.
        tree: directory outside the system trees that it needs, or None.
    """

    language: str
    program: Path
    tree: Path | None = None


def search_path() -> str:
    """PATH without the directories of virtual environments.

    Mulligan itself usually runs in one, and its packages are no business of the programs'.
    """
    parts = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(p for p in parts if p and not (Path(p).parent / "pyvenv.cfg").exists())


def find(language: str) -> Toolchain | None:
    """The host's toolchain for a language, or None where it has none that answers."""
    finder = _FINDERS.get(language)
    return finder() if finder is not None else None


def find_all() -> dict[str, Toolchain]:
    """Every toolchain of the host, by language."""
    with ThreadPoolExecutor(len(_FINDERS)) as pool:  # each is a program that is asked
        found = dict(zip(_FINDERS, pool.map(find, _FINDERS), strict=True))
    return {language: toolchain for language, toolchain in found.items() if toolchain}


def _ask(command: str, *arguments: str) -> str | None:
    """The first line a program on PATH answers with, or None."""
    program = shutil.which(command, path=search_path())
    if program is None:
        return None
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["PATH"] = search_path()
    env.pop("VIRTUAL_ENV", None)
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=ASK_TIMEOUT_S,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _tree(path: Path) -> Path | None:
    """``path`` as a tree to show, unless the system trees have it already."""
    resolved = path.resolve()
    if any(resolved.is_relative_to(system.resolve()) for system in SYSTEM_TREES):
        return None
    return path


def _python() -> Toolchain | None:
    script = "import os, sys; print(sys.base_prefix, os.path.realpath(sys.executable), sep='\\t')"
    answer = _ask("python3", "-S", "-c", script)
    if answer is None:
        return None
    prefix, executable = (Path(part) for part in answer.split("\t"))
    link = prefix / "bin" / "python3"
    program = link if link.exists() else executable
    return Toolchain("python", program, _tree(prefix))


def _node() -> Toolchain | None:
    answer = _ask("node", "-p", "process.execPath")
    if answer is None:
        return None
    program = Path(answer)
    return Toolchain("javascript", program, _tree(program.parent.parent))


def _bash() -> Toolchain | None:
    program = shutil.which("bash", path=search_path())
    if program is None:
        return None
    path = Path(program)
    return Toolchain("bash", path, _tree(path.parent.parent))


def _rust() -> Toolchain | None:
    answer = _ask("rustc", "--print", "sysroot")
    if answer is None:
        return None
    program = Path(answer) / "bin" / "rustc"
    return Toolchain("rust", program, _tree(Path(answer))) if program.exists() else None


_FINDERS: dict[str, Callable[[], Toolchain | None]] = {
    "python": _python,
    "javascript": _node,
    "bash": _bash,
    "rust": _rust,
}
