"""What tells a VM from its forks where their memory is the same: host name and machine-id(5).

The files that say them are a layer of their own between the image and what the VM writes. They stay
where they are when a VM goes on as another one, and have other content then.
"""

from __future__ import annotations

import os
import stat

from mulligan.guest.root import BASE, IMAGE

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

OWN = f"{BASE}/own"
HOSTS = "etc/hosts"
MOST_HOSTS = 64 * 1024


def lay(identity: dict[str, Any]) -> str:
    """Makes the layer, or writes it anew; returns where it is.

    Args:
        identity: ``hostname``, and ``machine_id``, 32 hexadecimal digits.

    Raises:
        OSError: it could not be written.
    """
    name = identity["hostname"]
    for directory in (OWN, f"{OWN}/etc"):
        if not os.path.isdir(directory):
            os.mkdir(directory)
            os.chmod(directory, 0o755)
    _write("etc/hostname", f"{name}\n")
    _write("etc/machine-id", f"{identity['machine_id']}\n")
    _write(HOSTS, f"{_hosts_of_image()}127.0.0.1\t{name}\n")
    return OWN


def laid() -> bool:
    """Whether there is one."""
    return os.path.isdir(OWN)


def _write(path: str, text: str) -> None:
    # Not another file of that name: it is mounted.
    with open(f"{OWN}/{path}", "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)


def _hosts_of_image() -> str:
    """What the image says, whatever is in its place; nothing where that cannot be."""
    try:
        file = os.open(f"{IMAGE}/{HOSTS}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_HOSTS:
            return ""
        text = os.read(file, MOST_HOSTS).decode(errors="replace")
    finally:
        os.close(file)
    return text if not text or text.endswith("\n") else f"{text}\n"
