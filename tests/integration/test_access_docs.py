"""What docs/access.md shows is what happens."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.extraction import extract
from support.host import check_has_what_it_types, data_directory
from support.server import Server, clean_environment
from support.typed import TYPED

DOCUMENT = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
URL = "http://127.0.0.1:8080"
# What is different each time, in the order it is looked for.
CHANGING = {
    r"\b(token|req|exec)-[0-9a-f]{16}": r"\1-ID",
    r"\bvm-(?!0{16})[0-9a-f]{16}": "vm-ID",
    r"mlg_[A-Za-z0-9_-]{6}…": "mlg_…",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+Z)?": "TIME",
    r" +": " ",
    r" \n": "\n",
}


def blocks(kind: str) -> list[str]:
    return [
        DOCUMENT[block.metadata["code_start"] : block.metadata["code_end"]]
        for block in extract(DOCUMENT)
        if block.metadata["info"] == kind
    ]


def same(text: str) -> str:
    for pattern, stands_for in CHANGING.items():
        text = re.sub(pattern, stands_for, text)
    return text


def sessions(text: str) -> list[tuple[str, str]]:
    """(command, what it prints) of console blocks."""
    found = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    return list(zip(found[1::2], found[2::2], strict=True))


def typed(line: str, directory: Path, where: Path, **env: str) -> str:
    environment = clean_environment(MULLIGAN_DATA_DIR=str(directory), **env)
    environment["PATH"] = f"{TYPED.directory}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        env=environment,
        cwd=where,
        check=False,
    )
    return done.stdout


def test_what_is_typed(tmp_path: Path) -> None:
    refused, made, *served = blocks("console")
    check_has_what_it_types("".join(served))
    with data_directory() as directory:
        for line, expected in sessions(refused + made):
            assert same(typed(line, directory, tmp_path)) == same(expected), line
        assert (tmp_path / "scout.token").stat().st_mode & 0o777 == 0o600
        with Server(directory) as server:
            token = (tmp_path / "scout.token").read_text().strip()
            (code,) = blocks("python")
            done = subprocess.run(
                [sys.executable, "-c", code.replace(URL, server.url)],
                capture_output=True,
                text=True,
                timeout=100,
                env=clean_environment(MULLIGAN_TOKEN=token),
                check=False,
            )
            assert (done.stderr, done.stdout) == ("", blocks("text")[0])
            for line, expected in sessions("".join(served)):
                shown = typed(line.replace(URL, server.url), directory, tmp_path)
                assert same(shown) == same(expected), line


def test_the_settings_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (text,) = blocks("toml")
    path = tmp_path / "mulligan.toml"
    path.write_text(text)
    monkeypatch.setenv("MULLIGAN_CONFIG", str(path))
    settings = settings_module.load()
    assert settings.limits.vms == tomllib.loads(text)["limits"]["vms"]
    assert settings.allowed_hosts == ["mulligan.example.org"]


def test_the_defaults_are_the_defaults() -> None:
    limits = settings_module.load().limits.model_dump()
    told = re.findall(r"^\| `(\w+)` \| (\d+) \|", DOCUMENT, flags=re.MULTILINE)
    assert {name: float(value) for name, value in told} == limits
