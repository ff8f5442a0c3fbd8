"""Landlock as this kernel has it; in a process of its own, since nobody leaves a domain."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from mulligan.guest import landlock

ABI = landlock.version()
START = """
import os, sys
from mulligan.guest import kernel, landlock
os.chdir(sys.argv[1])
kernel.drop_privileges()
def answer(do, *arguments):
    try:
        do(*arguments)
        return "done"
    except OSError as error:
        return type(error).__name__
other = os.fork()  # with the same rights, and not in the domain to be
if not other:
    kernel._call("prctl", 1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG
    import signal; signal.pause()
def look(): open(f"/proc/{other}/environ", "rb").close()
def whiteout(name): os.mknod(name, 0o20600, 0)  # the one device file anybody may make
"""


def run(code: str, directory: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", START + code, str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(("abi", "moves"), [(0, False), (0, True), (1, False), (5, True)])
def test_a_kernel_without_it_is_left_as_it_is(abi: int, moves: bool, tmp_path: Path) -> None:
    code = f"print(landlock.restrict({abi}, moves={moves}), answer(look))"
    assert run(code, tmp_path) == ["False", "done"]


@pytest.mark.skipif(ABI < landlock.ABI_FILES, reason="this kernel has none, or too old a one")
def test_an_execution(tmp_path: Path) -> None:
    code = (
        "print(answer(look), answer(whiteout, 'before'))\n"
        "print(landlock.restrict(landlock.version(), moves=False))\n"
        "print(answer(look), answer(whiteout, 'after'))\n"
        "os.mkdir('a'); os.mkdir('b'); open('a/f', 'w').close()\n"
        "os.rename('a/f', 'b/g'); os.link('b/g', 'a/h'); os.mkfifo('p'); os.symlink('a', 's')\n"
        "print(os.isatty(os.open('/dev/null', 0)))\n"
    )
    expected = ["done", "done", "True", "PermissionError", "PermissionError", "False"]
    assert run(code, tmp_path) == expected
    assert (tmp_path / "a" / "h").exists()


@pytest.mark.skipif(ABI < landlock.ABI_SCOPE, reason="this kernel has none, or too old a one")
def test_what_may_be_moved_to_another_root_has_no_rules_about_files(tmp_path: Path) -> None:
    code = (
        "print(landlock.restrict(landlock.version(), moves=True))\n"
        "print(answer(look), answer(whiteout, 'after'))\n"
        "os.mkdir('a'); open('f', 'w').close(); os.rename('f', 'a/f')\n"
    )
    assert run(code, tmp_path) == ["True", "PermissionError", "done"]


@pytest.mark.skipif(ABI < landlock.ABI_FILES, reason="this kernel has none, or too old a one")
def test_a_domain_is_not_left_by_entering_another(tmp_path: Path) -> None:
    code = (
        "for _ in range(3): landlock.restrict(landlock.version(), moves=False)\n"
        "print(answer(look), answer(whiteout, 'after'))\n"
    )
    assert run(code, tmp_path) == ["PermissionError", "PermissionError"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_where_it_cannot_be_used_there_is_none(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Not built in, switched off, or kept from us by a sandbox around this one."""

    def refused(*_: object) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(landlock.kernel, "syscall", refused)
    assert landlock.version() == 0
