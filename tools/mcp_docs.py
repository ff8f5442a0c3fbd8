"""Makes what docs/mcp.md says of the tools, and the session in it, from the code.

    python tools/mcp_docs.py

The example is run as a reader would run it, and what it prints is pasted in.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.mcp.tools import TOOLS

DOCUMENT = Path(__file__).parents[1] / "docs" / "mcp.md"


def table() -> str:
    """The tools, their parameters and what they do, as a table."""
    lines = ["| tool | parameters | what it does |", "| --- | --- | --- |"]
    for tool in TOOLS.values():
        fields = tool.takes.model_fields.items()
        names = ", ".join(f"**{name}**" if each.is_required() else name for name, each in fields)
        kind = "reads only" if tool.reads_only else "destructive" if tool.destroys else "adds"
        lines.append(f"| `{tool.name}` ({kind}) | {names} | {tool.description} |")
    return "\n".join(lines) + "\n"


def example(text: str) -> str:
    """The program of the session. It stands between outer fences, for it has some of its own."""
    start = text.index("````python\n") + len("````python\n")
    return text[start : text.index("````\n", start)]


def session(code: str, directory: Path) -> str:
    """What the example prints, run in a directory of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    if done.returncode or done.stderr:
        raise SystemExit(f"the example failed: {done.stderr}")
    return done.stdout


def between(text: str, name: str) -> str:
    """What stands between two marks."""
    return text.split(f"<!-- {name}:begin -->\n")[1].split(f"<!-- {name}:end -->", maxsplit=1)[0]


def fenced(output: str) -> str:
    """A session as the document has it."""
    return f"`````text\n{output.strip()}\n`````\n"


def main() -> None:
    """Writes the document anew."""
    text = DOCUMENT.read_text()
    directory = Path(tempfile.mkdtemp(prefix="mulligan-docs-"))
    directory.chmod(PASS_THROUGH)
    try:
        made = {"tools": table(), "session": fenced(session(example(text), directory))}
    finally:
        remove_tree(directory)
    for name, content in made.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        text = f"{text.split(begin)[0]}{begin}{content}{end}{text.split(end)[1]}"
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
