"""Every example runs, and prints what examples/README.md says."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mulligan.extraction import extract
from support.server import clean_environment

EXAMPLES = Path(__file__).parents[2] / "examples"
README = (EXAMPLES / "README.md").read_text()
NOT_EXAMPLES = {"scripted_model.py"}


def shown() -> dict[str, str]:
    """What each example prints, by the README: the block under the heading of its name."""
    found = {}
    for block in extract(README):
        before = README[: block.metadata["code_start"]]
        headings = re.findall(r"^## (\w+\.py)$", before, re.MULTILINE)
        if headings:
            found[headings[-1]] = README[block.metadata["code_start"] : block.metadata["code_end"]]
    return found


def needed() -> dict[str, list[str]]:
    """The modules each example needs, by the README's table."""
    rows = re.findall(r"^\| \[(\w+\.py)\]\(\1\) \| [^|]+ \| ([^|]*) \|$", README, re.MULTILINE)
    return {name: re.findall(r"`([\w-]+)", packages) for name, packages in rows}


def test_every_example_is_in_the_readme() -> None:
    there = {path.name for path in EXAMPLES.glob("*.py")} - NOT_EXAMPLES
    assert shown().keys() == there
    assert needed().keys() == there


@pytest.mark.parametrize("name", sorted(shown()))
def test_example_prints_what_the_readme_shows(data_dir: Path, name: str) -> None:
    modules = [package.replace("-", "_").removesuffix("_slim") for package in needed()[name]]
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install -e '.[examples]'")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=100,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir), NO_PROXY="127.0.0.1"),
        cwd=data_dir,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown()[name]
