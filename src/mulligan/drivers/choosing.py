"""The drivers there are, by name: what each can do, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mulligan.drivers.bubblewrap.driver import BubblewrapDriver
from mulligan.drivers.gvisor import runsc
from mulligan.drivers.gvisor.driver import GvisorDriver
from mulligan.drivers.interface import Capabilities, Driver
from mulligan.drivers.qemu.accel import EMULATED
from mulligan.drivers.qemu.driver import QemuDriver
from mulligan.errors import ConfigError


def _gvisor(guest: tuple[int, int], directory: Path) -> Driver:
    return GvisorDriver(guest, directory, runsc.find())


# The strongest walls first: the order in which "auto" tries them. Each takes uid and gid of VMs
# and the data directory, and raises ConfigError where this host cannot run it.
MAKERS: Mapping[str, Callable[[tuple[int, int], Path], Driver]] = {
    "qemu": QemuDriver,
    "gvisor": _gvisor,
    "bubblewrap": BubblewrapDriver,
}
CAPABILITIES: Mapping[str, Capabilities] = {
    "qemu": QemuDriver.capabilities,
    "gvisor": GvisorDriver.capabilities,
    "bubblewrap": BubblewrapDriver.capabilities,
}
EMBEDDED = "bubblewrap"  # needs nothing that does not come with Mulligan


def reluctance(driver: Driver) -> ConfigError | None:
    """Why a driver that works is not one to take unless it is named."""
    if isinstance(driver, QemuDriver) and driver.accel.name == EMULATED:
        return ConfigError(
            f"microVMs are emulated here, which is slow: {driver.accel.reason}",
            remedy='to have them all the same: driver = "qemu"',
        )
    return None


def forgetful(driver: Driver) -> ConfigError | None:
    """Why a driver that could keep memory over a restart of the server cannot on this host."""
    return driver.forgets if isinstance(driver, QemuDriver) else None


def table() -> str:
    """What each driver can do, as a table of Markdown; docs/drivers.md has it."""
    names = [f"`{name}`" for name in CAPABILITIES]
    lines = [_row("", names), _row("---", ["---" for _ in names])]
    cells = [_cells(each) for each in CAPABILITIES.values()]
    lines += [_row(title, [each[title] for each in cells]) for title in cells[0]]
    return "\n".join(lines) + "\n"


def _row(title: str, cells: list[str]) -> str:
    return f"| {' | '.join([title, *cells])} |"


def _cells(can: Capabilities) -> dict[str, str]:
    return {
        "kernel": "its own" if can.own_kernel else "the host's",
        "network": ", ".join(f"`{mode}`" for mode in can.network),
        "images beside the host's own": "yes" if can.images else "no",
        "memory a snapshot keeps": (
            "kernels; all with `keep_memory`" if can.memory == "all" else can.memory
        ),
        "memory in forks": "with `keep_memory`" if can.memory_across_fork else "no",
        "memory outlives the server": ("with `keep_memory`" if can.memory_across_restart else "no"),
        "boot takes": can.boot_cost,
        "a snapshot takes": can.snapshot_cost,
    }
