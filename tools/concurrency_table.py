"""Writes the table of docs/concurrency.md anew.

Usage: python tools/concurrency_table.py
"""

from pathlib import Path

from mulligan.engine.concurrency import rows

DOCUMENT = Path(__file__).parent.parent / "docs" / "concurrency.md"
BEGIN, END = "<!-- table:begin -->\n", "<!-- table:end -->\n"

if __name__ == "__main__":
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + rows() + END + rest.partition(END)[2])
