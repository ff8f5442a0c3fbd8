"""Finding toolchains: not in virtual environments, and behind shims."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from mulligan.images import toolchains
from mulligan.languages import LANGUAGES

COMMANDS = {"python": "python3", "javascript": "node", "bash": "bash", "rust": "rustc"}
REAL_PYTHON = Path(sys.base_prefix) / "bin" / "python3"


def install(directory: Path, name: str, text: str) -> None:
    """Makes a program."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)
    (directory / name).chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is all of PATH."""
    directory = tmp_path / "path"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def test_search_path_drops_virtual_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, other = tmp_path / "venv" / "bin", tmp_path / "other" / "bin"
    for directory in (venv, other):
        directory.mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    monkeypatch.setenv("PATH", f"{venv}:/usr/bin::{other}:{venv}/:/nowhere")
    assert toolchains.search_path() == f"/usr/bin:{other}:/nowhere"


def test_search_path_with_what_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = "/" + "x" * 300 + "/bin"  # like a closed directory, an error even to ask about
    monkeypatch.setenv("PATH", f"/usr/bin:{longer}")
    assert toolchains.search_path() == f"/usr/bin:{longer}"


@pytest.mark.parametrize("name", ["PATH", "HOME"])
def test_search_path_without_path(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PATH", "/somewhere")
    monkeypatch.delenv(name)
    assert toolchains.search_path() == (os.defpath if name == "PATH" else "/somewhere")


@pytest.mark.parametrize("language", [*LANGUAGES, "cobol"])
def test_nothing_is_found_on_an_empty_path(path: Path, language: str) -> None:
    assert toolchains.find(language) is None


def test_find_all_has_what_there_is(path: Path) -> None:
    assert toolchains.find_all() == {}
    install(path, "python3", f'#!/bin/sh\nexec {shlex.quote(str(REAL_PYTHON))} "$@"\n')
    assert set(toolchains.find_all()) == {"python"}


@pytest.mark.parametrize("language", ["python", "javascript", "rust"])
@pytest.mark.parametrize(
    "text",
    ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho x; exit 1\n", "#!/bin/sh\n", "#!/nowhere\n", ""],
)
def test_a_tool_that_does_not_answer_is_none(path: Path, language: str, text: str) -> None:
    install(path, COMMANDS[language], text)
    assert toolchains.find(language) is None


def test_a_tool_that_is_only_in_a_virtual_environment_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = f'#!/bin/sh\nexec {shlex.quote(str(REAL_PYTHON))} "$@"\n'
    install(tmp_path / "venv" / "bin", "python3", shim)
    monkeypatch.setenv("PATH", str(tmp_path / "venv" / "bin"))
    assert toolchains.find("python") is not None
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    assert toolchains.find("python") is None


def test_a_shim_is_resolved_to_the_interpreter_behind_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where PYTHON* variables, which are this process's business, would mislead it."""
    install(path, "python3", f'#!/bin/sh\nexec {shlex.quote(str(REAL_PYTHON))} "$@"\n')
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    found = toolchains.find("python")
    assert found is not None
    assert (found.language, found.program) == ("python", REAL_PYTHON)
    assert found.program.resolve() == Path(sys.executable).resolve()
    in_system = Path(sys.base_prefix).resolve().is_relative_to("/usr")
    assert found.tree == (None if in_system else Path(sys.base_prefix))


def test_a_tools_tree_is_the_one_it_names(path: Path, tmp_path: Path) -> None:
    root = tmp_path / "rust"
    install(path, "rustc", f"#!/bin/sh\n[ \"$1 $2\" = '--print sysroot' ] && echo '{root}'\n")
    assert toolchains.find("rust") is None  # it names a tree without a compiler
    install(root / "bin", "rustc", "")
    assert toolchains.find("rust") == toolchains.Toolchain("rust", root / "bin" / "rustc", root)


def test_what_is_in_the_system_trees_needs_no_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/usr/bin/bash").exists():
        pytest.skip("bash is elsewhere here")
    monkeypatch.setenv("PATH", "/usr/bin")
    assert toolchains.find("bash") == toolchains.Toolchain("bash", Path("/usr/bin/bash"), None)


def test_a_home_with_a_bin_in_it_is_no_toolchain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tree would be the whole home, keys and all."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(home / "bin"))
    install(home / "bin", "bash", "#!/bin/sh\n")
    install(home / "bin", "node", f"#!/bin/sh\necho {home}/bin/node\n")
    install(home / "bin", "rustc", f"#!/bin/sh\necho {home}\n")
    assert toolchains.find_all() == {}
    apart = home / ".tools" / "node" / "bin"
    install(apart, "node", f"#!/bin/sh\necho {apart}/node\n")
    monkeypatch.setenv("PATH", str(apart))
    found = toolchains.find("javascript")
    assert found is not None
    assert found.tree == apart.parent


@pytest.mark.parametrize("answer", ["/opt/node", "nonsense", "/tmp/x/node", "", "/bin/.."])
def test_odd_answers_are_no_toolchain(path: Path, answer: str) -> None:
    install(path, "node", f"#!/bin/sh\necho '{answer}'\n")
    assert toolchains.find("javascript") is None


@pytest.mark.parametrize("value", ["/bin:/usr/bin", None])
def test_bash_of_the_system_needs_no_tree(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", value)
    found = toolchains.find("bash")
    assert found is not None
    assert found.tree is None


def test_chatty_tools_are_heard_out(path: Path) -> None:
    real = shlex.quote(str(REAL_PYTHON))
    install(path, "python3", f'#!/bin/sh\necho hello\nexec {real} "$@"\n')
    install(path, "node", "#!/bin/sh\nprintf '\\377\\n'\n")
    assert set(toolchains.find_all()) == {"python"}


def test_rustup_is_found_from_another_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with sudo, or a service: HOME is not where rustup was installed."""
    chain = tmp_path / "user" / ".rustup" / "toolchains" / "stable"
    install(chain / "bin", "rustc", "#!/bin/sh\n")
    answer = f'#!/bin/sh\n[ "$RUSTUP_HOME" = {tmp_path}/user/.rustup ] && echo {chain}\n'
    install(tmp_path / "user" / ".cargo" / "bin", "rustc", answer)
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    monkeypatch.delenv("RUSTUP_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "user" / ".cargo" / "bin"))
    found = toolchains.find("rust")
    assert found is not None
    assert (found.program, found.tree) == (chain / "bin" / "rustc", chain)
