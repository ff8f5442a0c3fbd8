"""Runs `mulligan selfcheck` with its control, and writes the tables of docs/security.md anew.

The long tables are of bubblewrap; beside them stands what differs with every other driver that this
host has, or why it has it not. MicroVMs have the kernel image of the data directory there is.

Usage: python tools/selfcheck_docs.py
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from mulligan import settings
from mulligan.drivers.qemu.image import lend
from mulligan.errors import ConfigError
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.selfcheck.report import markdown, side_by_side, summary
from mulligan.selfcheck.run import selfcheck
from mulligan.selfcheck.verdicts import Report

DOCUMENT = Path(__file__).parent.parent / "docs" / "security.md"
BEGIN, END = "<!-- selfcheck:begin -->\n", "<!-- selfcheck:end -->\n"
BEGIN_DRIVERS, END_DRIVERS = (
    "<!-- selfcheck-drivers:begin -->\n",
    "<!-- selfcheck-drivers:end -->\n",
)
FIRST, OTHERS = "bubblewrap", ("gvisor", "qemu")


def main() -> int:
    """Writes the document, whatever came of the run; 1 if something failed."""
    reports = {FIRST: tried(FIRST)}
    for name in OTHERS:
        try:
            reports[name] = tried(name)
        except ConfigError as error:
            print(f"{name} was not tried, and its column is as it was: {error}", file=sys.stderr)
    text = between(DOCUMENT.read_text(), BEGIN, END, markdown(reports[FIRST]))
    if len(reports) > len(OTHERS):
        text = between(text, BEGIN_DRIVERS, END_DRIVERS, side_by_side(list(reports.values())))
    DOCUMENT.write_text(text)
    for name, report in reports.items():
        print(f"{name}: {summary(report)}")
    return not all(report.good for report in reports.values())


def tried(driver: str) -> Report:
    """A run with VMs of a driver.

    Raises:
        ConfigError: this host cannot run it.
    """
    directory = Path(tempfile.mkdtemp(prefix="mulligan-selfcheck-docs-"))
    directory.chmod(PASS_THROUGH)
    try:
        lend(settings.load().data_dir / "images", directory / "images")
        chosen = settings.load(data_dir=directory, driver=driver)
        return asyncio.run(selfcheck(chosen, control=True))
    finally:
        remove_tree(directory)


def between(text: str, begin: str, end: str, new: str) -> str:
    """A text with what is between two marks replaced."""
    before, _, rest = text.partition(begin)
    return before + begin + new + end + rest.partition(end)[2]


if __name__ == "__main__":
    sys.exit(main())
