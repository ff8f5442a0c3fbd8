"""Finding the host's interpreters and compilers, wherever they are installed.

A toolchain is asked where it lives (a version manager puts a small shim on PATH), and the tree it
needs is shown read-only in VMs at the path it has on the host, because paths are built into it.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ASK_TIMEOUT_S = 20
SYSTEM_TREES = (Path("/usr"), Path("/bin"), Path("/lib"))
# No tree that holds one of these, or lies above it, is a toolchain's alone.
PRIVATE = (
    *map(Path, ("/home", "/root", "/etc", "/var", "/run", "/proc", "/dev")),
    Path("/tmp"),  # noqa: S108  (never written here)
)


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
    # Not Path.exists: it raises where a directory is closed to us, as root's are to a service.
    return os.pathsep.join(
        p
        for p in parts
        if p and not os.path.exists(Path(p).parent / "pyvenv.cfg")  # noqa: PTH110
    )


def find(language: str) -> Toolchain | None:
    """The host's toolchain for a language, or None where it has none that answers."""
    finder = _FINDERS.get(language)
    try:
        return finder() if finder is not None else None
    except _Unsafe:
        return None


def find_all() -> dict[str, Toolchain]:
    """Every toolchain of the host, by language."""
    with ThreadPoolExecutor(len(_FINDERS)) as pool:  # each is a program that is asked
        found = dict(zip(_FINDERS, pool.map(find, _FINDERS), strict=True))
    return {language: toolchain for language, toolchain in found.items() if toolchain}


def interpreter_version(toolchain: Toolchain) -> str:
    """What an interpreter says its version is; asked again when its file has changed."""
    return _version(toolchain.program, toolchain.program.stat().st_mtime_ns)


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version in what a program says of itself; none where there are none."""
    found = re.search(r"[0-9]{1,6}(?:\.[0-9]{1,6}){1,3}", version)
    return tuple(map(int, found[0].split("."))) if found is not None else ()


@cache
def _version(program: Path, _mtime: int) -> str:
    return _ask(str(program), "--version") or "unknown"


def _ask(command: str, *arguments: str, **more: str) -> str | None:
    """The last line a program on PATH answers with, or None; ``more`` goes into its environment.

    Each is asked once a process, as long as it is the same file: starting it takes a tenth of a
    second or more.
    """
    path = search_path()
    program = shutil.which(command, path=path)
    if program is None:
        return None
    home = os.environ.get("HOME", "")
    modified = Path(program).stat().st_mtime_ns
    return _answer(program, modified, path, home, arguments, tuple(sorted(more.items())))


@cache
def _answer(
    program: str,
    _modified: int,
    path: str,
    _home: str,
    arguments: tuple[str, ...],
    more: tuple[tuple[str, str], ...],
) -> str | None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["PATH"] = path
    env.pop("VIRTUAL_ENV", None)
    env |= dict(more)
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_TIMEOUT_S,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[-1] if done.returncode == 0 and lines else None


class _Unsafe(Exception):  # noqa: N818  (never leaves this module)
    """Showing this toolchain would show more than a toolchain."""


def _tree(program: Path, tree: Path) -> Path | None:
    """The tree to show for a program, or None where the system trees have it already.

    Raises:
        _Unsafe: the tree is no toolchain's alone, such as somebody's home with a ``bin`` in it.
    """
    resolved = program.resolve()
    if any(resolved.is_relative_to(system.resolve()) for system in SYSTEM_TREES):
        return None
    if not tree.is_absolute() or not program.is_relative_to(tree):
        raise _Unsafe
    homes = {Path(user.pw_dir) for user in pwd.getpwall()} | {Path.home()}
    for private in (*PRIVATE, *homes):
        if private.resolve().is_relative_to(tree.resolve()):
            raise _Unsafe
    return tree


def _python() -> Toolchain | None:
    script = "import os, sys; print(sys.base_prefix, os.path.realpath(sys.executable), sep='\\t')"
    answer = (_ask("python3", "-S", "-c", script) or "").split("\t")
    if len(answer) != 2:  # noqa: PLR2004
        return None
    prefix, executable = (Path(part) for part in answer)
    link = prefix / "bin" / "python3"
    program = link if link.exists() else executable
    return Toolchain("python", program, _tree(program, prefix))


def _node() -> Toolchain | None:
    program = Path(_ask("node", "-p", "process.execPath") or "")
    if not program.is_absolute() or not program.is_file() or not os.access(program, os.X_OK):
        return None
    tree = program.parent.parent
    return Toolchain("javascript", program, _tree(program, tree))


def _bash() -> Toolchain | None:
    found = shutil.which("bash", path=search_path())
    if found is None:
        return None
    program = Path(found).resolve()
    return Toolchain("bash", program, _tree(program, program.parent.parent))


def _rust() -> Toolchain | None:
    answer = _ask("rustc", "--print", "sysroot")
    found = shutil.which("rustc", path=search_path())
    if answer is None and found is not None:
        # rustup's stand-in looks for its toolchains in HOME, which need not be where it lies.
        home = Path(found).parent.parent.parent / ".rustup"
        answer = _ask("rustc", "--print", "sysroot", RUSTUP_HOME=str(home))
    sysroot = Path(answer or "")
    program = sysroot / "bin" / "rustc"
    if not program.is_absolute() or not program.is_file() or not os.access(program, os.X_OK):
        return None
    return Toolchain("rust", program, _tree(program, sysroot))


_FINDERS: dict[str, Callable[[], Toolchain | None]] = {
    "python": _python,
    "javascript": _node,
    "bash": _bash,
    "rust": _rust,
}
