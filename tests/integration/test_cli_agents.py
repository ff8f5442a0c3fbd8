"""Whose VM a command is about, and which of them, where neither is said."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mulligan.cli.app import app
from mulligan.history.tokens import open_tokens
from support import host
from support.server import Server

NAME = "bob"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Server, dict[str, str]]]:
    with host.data_directory() as path:
        with open_tokens(path / "history") as store:
            tokens = {"agent": store.create(NAME)[1], "admin": store.create(None)[1]}
        with Server(path, MULLIGAN_LOG_LEVEL="warning") as server:
            yield server, tokens


@pytest.fixture
def agents(served: tuple[Server, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands go to the server, with an agent's token."""
    server, tokens = served
    monkeypatch.setenv("MULLIGAN_SERVER", server.url)
    monkeypatch.setenv("MULLIGAN_TOKEN", tokens["agent"])


def typed(*words: str, ok: bool = True) -> str:
    done = CliRunner().invoke(app, list(words))
    assert (done.exit_code == 0) is ok, done.output
    return done.stdout + done.stderr + ("" if ok else str(done.exception or ""))


def bash(code: str, *more: str, ok: bool = True) -> str:
    said = typed("run", "--json", "-l", "bash", "-c", code, *more, ok=ok)
    return str(json.loads(said)["stdout"]) if ok else said


def vms() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(typed("vm", "ls", "--json"))
    return found


@pytest.mark.usefixtures("agents")
def test_commands_are_about_the_agent_of_the_token(
    served: tuple[Server, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bash("echo one > note")
    (vm,) = vms()
    assert vm["agent_id"] == NAME
    assert "there is no agent cli" in bash("true", "--agent", "cli", ok=False)
    local = tmp_path / "local"
    local.write_text("sent")
    typed("files", "put", str(local), "given")
    for words in (["given"], [vm["id"], "given"], ["--vm", vm["id"], "given"]):
        typed("files", "get", *words, str(tmp_path / "back"))
        assert (tmp_path / "back").read_text() == "sent"
        (tmp_path / "back").unlink()
    assert "given" in typed("files", "ls")
    assert typed("files", "ls", vm["id"]) == typed("files", "ls", vm["id"], ".")
    typed("files", "rm", "given")
    assert "given" not in typed("files", "ls")
    for words in (["get"], ["put", "a"], ["rm", vm["id"]], ["ls", "a", "b"], ["cat", "a", "b"]):
        done = CliRunner().invoke(app, ["files", *words])
        assert done.exit_code != 0, words
    assert "echo one > note" in typed("history")
    # An administrator's is of no agent.
    monkeypatch.setenv("MULLIGAN_TOKEN", served[1]["admin"])
    assert "agent cli has none" in typed("history", ok=False)
    assert "echo one > note" in typed("history", "--agent", NAME)


@pytest.mark.usefixtures("agents")
def test_a_rollback_says_what_it_undid() -> None:
    bash("echo one > story")
    bash("echo two > story; exit 3", ok=False)
    entries = json.loads(typed("history", "--json"))["entries"]
    said = typed("rollback")
    assert f"undone {entries[0]['id']} echo two > story; exit 3" in said
    assert entries[1]["id"] not in said
    assert bash("cat story") == "one\n"


@pytest.mark.usefixtures("agents")
def test_a_vm_that_is_named_is_its_agents(
    served: tuple[Server, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULLIGAN_TOKEN", served[1]["admin"])
    vm = typed("vm", "create", "--agent", "ada").strip()
    assert bash("echo $((6 * 7))", "--vm", vm) == "42\n"
    assert "VM not available" in bash("true", "--vm", vm, "--agent", "grace", ok=False)
    assert "VM not available" in bash("true", "--vm", "vm-0", ok=False)
    assert [each["agent_id"] for each in vms() if each["id"] == vm] == ["ada"]
    typed("vm", "rm", vm)


@pytest.mark.usefixtures("agents")
def test_a_vm_of_a_type_stands_beside_the_first_one() -> None:
    bash("echo first > where")
    bash("echo second > where", "--type", "ubuntu")
    assert bash("cat where") == "first\n"
    assert bash("cat where", "--type", "ubuntu") == "second\n"
    assert bash("cat where", "--type", "focal-optimized") == "first\n"
    assert [each["vm_type"] for each in vms()] == ["focal-optimized", "ubuntu"]
    assert "vm_type 'none' is not defined" in bash("true", "--type", "none", ok=False)
    assert "not both" in bash("true", "--type", "ubuntu", "--vm", "vm-1", ok=False)


@pytest.mark.usefixtures("agents")
def test_a_vm_is_stopped_and_wakes() -> None:
    typed("run", "--kernel", "k", "-c", "open('kept', 'w').write('kept'); x = 1")
    first = vms()[0]["id"]
    assert typed("vm", "stop", first) == f"stopped {first}\n"
    assert vms()[0]["status"] == "hibernated"
    typed("vm", "stop", first)
    assert "NameError" in typed("run", "--json", "--kernel", "k", "-c", "x", ok=False)
    assert bash("cat kept") == "kept"
    assert "vm-none" in typed("vm", "stop", "vm-none", ok=False)
