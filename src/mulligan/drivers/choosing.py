"""The drivers there are, by name: what each can do, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mulligan.drivers.bubblewrap.driver import BubblewrapDriver
from mulligan.drivers.gvisor import runsc
from mulligan.drivers.gvisor.driver import GvisorDriver
from mulligan.drivers.interface import Capabilities, Driver


def _gvisor(guest: tuple[int, int], directory: Path) -> Driver:
    return GvisorDriver(guest, directory, runsc.find())


# The strongest walls first: the order in which "auto" tries them. Each takes uid and gid of VMs
# and the data directory, and raises ConfigError where this host cannot run it.
MAKERS: Mapping[str, Callable[[tuple[int, int], Path], Driver]] = {
    "gvisor": _gvisor,
    "bubblewrap": BubblewrapDriver,
}
CAPABILITIES: Mapping[str, Capabilities] = {
    "gvisor": GvisorDriver.capabilities,
    "bubblewrap": BubblewrapDriver.capabilities,
}
EMBEDDED = "bubblewrap"  # needs nothing that does not come with Mulligan
