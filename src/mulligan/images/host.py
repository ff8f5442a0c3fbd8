"""The ``host`` image: the machine's own programs, and nothing of its data.

VMs see the host's /usr (with /bin, /lib* and /sbin as the host has them) and its toolchains
read-only. Everything else is a small tree made here: the few files of /etc that programs need,
made up or copied, and empty directories. Nothing of /home, /root, /var, keys or sockets is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mulligan.guest
from mulligan.errors import ConfigError
from mulligan.guest.root import EXECUTION_DIR
from mulligan.images import toolchains
from mulligan.images.toolchains import Toolchain, interpreter_version, numbers

FORMAT = 2
GUEST_UID = 1000
GUEST_GID = 1000
GUEST_USER = "agent"
GUEST_HOME = "/home/agent"
WORKSPACE = "/workspace"
PACKAGES = "/packages"  # where VMs are shown sets of packages
HOSTNAME = "mulligan"
SYSTEM_DIRS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
COPIED = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/ca-certificates.conf",
    "/etc/alternatives",
    "/etc/mime.types",
    "/etc/protocols",
    "/etc/services",
    "/etc/python3*",  # Debian's sitecustomize
)
MADE_UP = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/bash\n"
    f"{GUEST_USER}:x:{GUEST_UID}:{GUEST_GID}::{GUEST_HOME}:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": f"root:x:0:\n{GUEST_USER}:x:{GUEST_GID}:\nnogroup:x:65534:\n",
    "etc/hosts": f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost\n",
    "etc/hostname": f"{HOSTNAME}\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/machine-id": "",
}
EMPTY = ("proc", "dev", "sys", "tmp", "run", "mnt", "opt", "root", "srv", "home", "var/tmp")
_COMPILED: dict[str, dict[str, bytes]] = {}  # of images, by name of file


@dataclass(frozen=True)
class HostImage:
    """A prepared image.

    Attributes:
        rootfs: the tree VMs' overlays are laid over.
        agent: directory with the guest's code, compiled for the image's Python.
        binds: host directories shown read-only in VMs, at the path they have.
        symlinks: (target, link) pairs of the root directory.
        toolchains: by language.
    """

    rootfs: Path
    agent: Path
    binds: tuple[Path, ...]
    symlinks: tuple[tuple[str, str], ...]
    toolchains: dict[str, Toolchain]

    @property
    def digest(self) -> str | None:
        """What an image of the store is known by; None for the host's own."""
        return None

    @property
    def python(self) -> Path:
        """The interpreter that runs the agent, and that Python programs are forked from."""
        return self.toolchains["python"].program

    @property
    def etc(self) -> Path:
        """The agent's /etc."""
        return self.rootfs / "etc"

    @property
    def shown(self) -> tuple[Path, ...]:
        """Those of ``binds`` that programs see."""
        return self.binds

    def version_of(self, language: str) -> tuple[int, ...]:
        """The version of a toolchain; empty where it is not known."""
        toolchain = self.toolchains.get(language)
        return numbers(interpreter_version(toolchain)) if toolchain is not None else ()

    @property
    def variables(self) -> dict[str, str]:
        """Environment of programs that the agent does not have."""
        return {}

    def bundle(self, paths: tuple[str, ...]) -> tuple[str, str] | None:
        """The first of some files of certificates that there is: its path in VMs, and its text."""
        for path in paths:
            file = self.rootfs / path[1:]
            if file.is_file():
                return path, file.read_text(errors="replace")
        return None

    def search_path(self) -> str:
        """PATH of programs in a VM."""
        own = [str(toolchain.program.parent) for toolchain in self.toolchains.values()]
        system = ["/usr/local/bin", "/usr/bin", "/bin"]
        return ":".join(dict.fromkeys([path for path in own if path not in system] + system))

    def environment(self) -> dict[str, str]:
        """Environment of programs in a VM."""
        return {
            "PATH": self.search_path(),
            "HOME": GUEST_HOME,
            "USER": GUEST_USER,
            "LOGNAME": GUEST_USER,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }


def prepare(directory: Path, owner: tuple[int, int]) -> HostImage:
    """Makes the image under ``directory``, or finds it there as it was made before.

    Args:
        directory: where images are kept.
        owner: uid and gid that VMs' programs have on the host; the tree is given to them, since
            an overlay can only copy up what belongs to a user its VM knows.

    Raises:
        ConfigError: the host has no Python the agent could run on, or the image cannot be made.
    """
    found = toolchains.find_all()
    if "python" not in found:
        raise ConfigError("no python3 on PATH for VMs to use", remedy=toolchains_hint("python"))
    binds, symlinks = _system_trees()
    trees = {chain.tree for chain in found.values() if chain.tree is not None}
    binds += sorted(_outermost(trees))
    key = _digest(found, binds, owner)
    target = directory / f"host-{key}"
    if not target.exists():
        try:
            _build(target, found, binds, symlinks, owner)
        except (OSError, shutil.Error, subprocess.SubprocessError) as error:
            raise ConfigError(f"cannot make the host image in {directory}: {error}") from None
    return HostImage(target / "rootfs", target / "agent", tuple(binds), tuple(symlinks), found)


def toolchains_hint(language: str) -> str:
    """What would bring a missing language."""
    from mulligan.languages import INSTALL_HINTS  # noqa: PLC0415

    return INSTALL_HINTS.get(language, f"install {language}")


def _system_trees() -> tuple[list[Path], list[tuple[str, str]]]:
    """The host's system directories: those to show, and those that are links into /usr."""
    binds = [Path("/usr")]
    symlinks = []
    for name in SYSTEM_DIRS:
        path = Path("/") / name
        if path.is_symlink():
            symlinks.append((str(path.readlink()), f"/{name}"))
        elif path.is_dir():
            binds.append(path)
    return binds, symlinks


def _outermost(trees: set[Path]) -> set[Path]:
    """Those of the trees that lie in no other."""
    return {t for t in trees if not any(o != t and t.is_relative_to(o) for o in trees)}


def _digest(found: dict[str, Toolchain], binds: list[Path], owner: tuple[int, int]) -> str:
    """A name for the image that changes with anything it is made of."""
    sources: list[object] = [FORMAT, owner, MADE_UP, [str(path) for path in binds]]
    sources += [[name, str(chain.program)] for name, chain in sorted(found.items())]
    guest = Path(mulligan.guest.__file__).parent
    for path in [*_copied(), *_guest_files(guest), found["python"].program]:
        if path.exists():
            stat = path.stat()
            sources.append([str(path), stat.st_mtime_ns, stat.st_size])
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def _guest_files(guest: Path) -> list[Path]:
    """What of the guest's code images have: its modules, and the programs of kernels."""
    return sorted(path for path in guest.rglob("*.*") if path.suffix in (".py", ".sh", ".js"))


def _build(
    target: Path,
    found: dict[str, Toolchain],
    binds: list[Path],
    symlinks: list[tuple[str, str]],
    owner: tuple[int, int],
) -> None:
    """Makes the image beside its place and moves it there whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staging.chmod(0o711)
        rootfs = staging / "rootfs"
        _fill_rootfs(rootfs, binds, symlinks)
        guest = Path(mulligan.guest.__file__).parent
        shutil.copytree(
            guest,
            staging / "agent" / "mulligan" / "guest",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        _compile(found["python"].program, staging / "agent", target.name)
        if os.geteuid() == 0:
            for path in [rootfs, *rootfs.rglob("*")]:
                os.chown(path, *owner, follow_symlinks=False)
        _open_up(staging / "agent")
        try:
            staging.rename(target)
        except OSError:
            if not target.exists():  # another process was faster otherwise, with the same content
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fill_rootfs(rootfs: Path, binds: list[Path], symlinks: list[tuple[str, str]]) -> None:
    for name in (*EMPTY, GUEST_HOME[1:], WORKSPACE[1:], PACKAGES[1:], EXECUTION_DIR[1:]):
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (rootfs / name).chmod(0o1777)
    for path in binds:
        (rootfs / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
    for link_target, link in symlinks:
        (rootfs / link[1:]).symlink_to(link_target)
    for name, text in MADE_UP.items():
        file = rootfs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for path in _copied():
        _copy(path, rootfs / path.relative_to("/"))


def _copied() -> list[Path]:
    """What of COPIED this host has."""
    return sorted(path for name in COPIED for path in Path("/").glob(name[1:]))


def _copy(source: Path, target: Path) -> None:
    """Copies a file or a directory of public files, links as they are."""
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _compile(python: Path, directory: Path, image: str) -> None:
    """Compiles the guest's code with the Python that will run it; VMs cannot write it there.

    What came of it is remembered: a process that serves several data directories, one after the
    other, compiles the code of an image once.
    """
    known = _COMPILED.get(image)
    if known is not None:
        for name, content in known.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(content)
        return
    subprocess.run(
        [
            python,
            "-I",
            "-S",
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            "unchecked-hash",
            ".",
        ],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=120,
    )
    _COMPILED[image] = {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.pyc")
    }


def _open_up(directory: Path) -> None:
    """Makes a tree readable for the user VMs run as, whatever the umask was."""
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
