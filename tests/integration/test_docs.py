"""What the README shows is what happens."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from mulligan.extraction import extract
from support.server import clean_environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = {
    kind: [
        README[block.metadata["code_start"] : block.metadata["code_end"]]
        for block in extract(README)
        if block.metadata["info"] == kind
    ]
    for kind in ("console", "python")
}


def sessions(text: str) -> list[tuple[str, str]]:
    """(command, what it prints) of a console block."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].rstrip("\n"), ""))
        else:
            command, output = found[-1]
            found[-1] = (command, output + line)
    return found


@pytest.mark.parametrize("block", BLOCKS["console"])
def test_console_examples(data_dir: Path, block: str) -> None:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = clean_environment(MULLIGAN_DATA_DIR=str(data_dir))
    env["PATH"] = f"{path}:{env['PATH']}"
    for command, expected in sessions(block):
        # The README's own lines, typed into a shell as a reader would.
        done = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            env=env,
            check=False,
        )
        assert done.stdout == expected, command


def examples(document: Path) -> list[tuple[str, str]]:
    """(code, what it prints) of each block of Python and the block after it."""
    text = document.read_text()
    blocks = [
        (block.metadata["info"], text[block.metadata["code_start"] : block.metadata["code_end"]])
        for block in extract(text)
    ]
    pairs = pairwise([*blocks, ("", "")])
    return [(code, output) for (kind, code), (_, output) in pairs if kind == "python"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [*examples(ROOT / "README.md"), *examples(ROOT / "docs" / "streaming.md")],
)
def test_python_examples(data_dir: Path, code: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir)),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected


def test_there_are_examples() -> None:
    assert all(BLOCKS.values())


def test_links_lead_somewhere() -> None:
    import re

    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("https://"):
                assert (document.parent / target).exists(), (document, target)


def test_demo_shows_what_it_promises() -> None:
    before_it = set(Path("/tmp").glob("mulligan-demo-*"))
    done = subprocess.run(
        [sys.executable, "-m", "mulligan", "demo"],
        capture_output=True,
        text=True,
        timeout=100,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in (
        "1229 primes; the last is 9973",
        "nothing of it was found",
        "Execution timeout after 1500ms",
        "medians of 30 runs",
    ):
        assert text in done.stdout
    before, after = done.stdout.split("processes in the VM before: ")[1].split("\n")[0].split(", ")
    assert after == f"after: {before}"
    assert set(Path("/tmp").glob("mulligan-demo-*")) <= before_it
