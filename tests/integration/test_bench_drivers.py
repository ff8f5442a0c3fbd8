"""The table of drivers: what is measured of one that works, and how one that does not is told."""

from pathlib import Path

import pytest
from bench import drivers

from mulligan.errors import ConfigError

pytestmark = pytest.mark.anyio


@pytest.mark.long
async def test_every_row_is_measured_that_a_driver_can_do(data_dir: Path) -> None:
    column = drivers.Column("bubblewrap", data_dir, 1)
    await column.measure()
    missing = set(drivers.ROWS) - column.cells.keys()
    assert missing == {drivers.COPY, drivers.KEEP, drivers.RESTORE, drivers.LOAD}
    assert column.title == "`bubblewrap`"


async def test_what_a_host_lacks_is_said_and_the_rest_is_measured(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measured(column: drivers.Column) -> None:
        if column.name == "gvisor":
            raise ConfigError("there is no runsc", remedy="install it")
        column.cells[drivers.NEW] = "5.0 ms"

    monkeypatch.setattr(drivers.Column, "measure", measured)
    lines = await drivers.measure(["bubblewrap", "gvisor"], data_dir, 1)
    assert lines[0] == "| VMs of 256 MB | `bubblewrap` |"
    assert lines[2] == f"| {drivers.NEW} | 5.0 ms |"
    assert lines[3] == f"| {drivers.COPY} | - |"
    assert "- no `gvisor` here: there is no runsc: install it" in lines
