"""Runs `mulligan selfcheck` with its control, and writes the tables of docs/security.md anew.

Usage: python tools/selfcheck_docs.py
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from mulligan import settings
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.selfcheck.report import markdown, summary
from mulligan.selfcheck.run import selfcheck

DOCUMENT = Path(__file__).parent.parent / "docs" / "security.md"
BEGIN, END = "<!-- selfcheck:begin -->\n", "<!-- selfcheck:end -->\n"


def main() -> int:
    """Writes the document, whatever came of the run; 1 if something failed."""
    directory = Path(tempfile.mkdtemp(prefix="mulligan-selfcheck-docs-"))
    directory.chmod(PASS_THROUGH)
    try:
        report = asyncio.run(selfcheck(settings.load(data_dir=directory), control=True))
    finally:
        remove_tree(directory)
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + markdown(report) + END + rest.partition(END)[2])
    print(summary(report))
    return not report.good


if __name__ == "__main__":
    sys.exit(main())
