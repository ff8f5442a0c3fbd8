"""Writes the table of metrics in docs/observability.md anew.

Usage: python tools/metrics_table.py
"""

from pathlib import Path

from mulligan.server.metrics import DECLARED, PREFIX

DOCUMENT = Path(__file__).parent.parent / "docs" / "observability.md"
BEGIN, END = "<!-- metrics:begin -->\n", "<!-- metrics:end -->\n"


def rows() -> str:
    """The table as the code has it."""
    lines = ["| metric | kind | labels | what it tells |", "| --- | --- | --- | --- |"]
    for each in DECLARED:
        name = PREFIX + each.name + ("_total" if each.kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{name}` | {each.kind} | {labels} | {each.text} |")
    return "\n".join(lines) + "\n"


def current() -> str:
    """The document with the table as it should be."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    return before + BEGIN + rows() + END + rest.partition(END)[2]


if __name__ == "__main__":
    DOCUMENT.write_text(current())
