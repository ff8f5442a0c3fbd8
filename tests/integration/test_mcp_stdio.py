"""``mulligan mcp`` as a process: what it prints, how it ends, and what it leaves."""

import asyncio
import signal
import subprocess
from pathlib import Path

import pytest

from mulligan.mcp.workspace import TEMPORARY
from support import host
from support.mcp_clients import ERAS, LEGACY, Process, over_http, over_stdio
from support.server import Server, clean_environment, command

pytestmark = pytest.mark.anyio

SLEEP = "import time; print('started', flush=True); time.sleep(300)"


def vms(data_dir: Path) -> list[Path]:
    return list((data_dir / "vms").iterdir())


def started(process: Process) -> None:
    """Waits until the program says that it runs."""
    message = process.read()
    while "started" not in message.get("params", {}).get("message", ""):
        message = process.read()


def begin(process: Process) -> None:
    """A program that runs for long, and is known to run."""
    process.initialize()
    params = {"name": "run_code", "arguments": {"code": SLEEP}, "_meta": {"progressToken": "t"}}
    process.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    started(process)


def test_nothing_but_messages_on_stdout_and_a_clean_end(data_dir: Path) -> None:
    with Process(data_dir) as process:
        answer = process.initialize()["result"]
        assert answer["serverInfo"]["name"] == "mulligan"
        assert "rollback" in answer["instructions"]
        process.call(1, "run_code", code="print(6 * 7)")
        result = process.answer(1)["result"]
        assert result["structuredContent"]["stdout"]["text"] == "42\n"
        assert host.naming(data_dir)
        process.close_input()
        assert process.process.stdout is not None
        assert process.process.stdout.read() == ""
        assert process.process.wait(30) == 0
        assert process.process.stderr is not None
        assert "tool_called" in process.process.stderr.read()
    assert not host.naming(data_dir)
    assert vms(data_dir) == []  # of an agent that nobody will be again


@pytest.mark.parametrize("end", ["eof", signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_whatever_runs(data_dir: Path, end: str | signal.Signals) -> None:
    with Process(data_dir, "--agent", "ada") as process:
        begin(process)
        if end == "eof":
            process.close_input()
        else:
            assert isinstance(end, signal.Signals)
            process.process.send_signal(end)
        assert process.process.wait(30) == 0
    assert host.wait_until(lambda: not host.naming(data_dir))
    assert len(vms(data_dir)) == 1  # its agent may come back


def test_a_client_that_does_not_read_does_not_keep_it(data_dir: Path) -> None:
    with Process(data_dir) as process:
        process.initialize()
        for number in range(1, 200):
            process.call(number, "no-such-tool-" + "x" * 1000)
            process.request(1000 + number, "tools/list")
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(30) == 0
    assert not host.naming(data_dir)


def test_killed_it_leaves_no_process_and_the_next_removes_its_vms(data_dir: Path) -> None:
    with Process(data_dir) as process:
        begin(process)
        process.process.kill()
        process.process.wait()
    assert host.wait_until(lambda: not host.naming(data_dir))
    assert len(vms(data_dir)) == 1
    with Process(data_dir, "--agent", "next") as process:
        process.initialize()
        process.call(1, "vms")
        agent = process.answer(1)["result"]["structuredContent"]["agent_id"]
        assert agent == "next"
    assert host.wait_until(lambda: not host.naming(data_dir))
    assert len(vms(data_dir)) == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("no JSON", None),
        ("[]", None),
        ('{"jsonrpc": "2.0", "id": 7, "method": "no/such"}', -32601),
        ('{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {}}', -32602),
        ('{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "x"}}', -32602),
        ("[" * 100_000, None),
        ('"' + "x" * 20_000_000 + '"', None),
    ],
    ids=["text", "batch", "method", "params", "tool", "deep", "long"],
)
def test_what_is_malformed_ends_nothing(data_dir: Path, line: str, code: int | None) -> None:
    with Process(data_dir) as process:
        process.initialize()
        process.send(line)
        if code is not None:
            assert process.answer(7)["error"]["code"] == code
        process.request(8, "ping")
        assert process.answer(8)["result"] == {}


def test_a_cancelled_call_ends_its_execution(data_dir: Path) -> None:
    with Process(data_dir) as process:
        begin(process)
        cancel = {"requestId": 1, "reason": "no patience"}
        process.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel})
        process.call(2, "run_code", code="'next'")  # waits for the interpreter
        assert process.answer(2)["result"]["structuredContent"]["result"] == "'next'"
        process.call(3, "history", failures_only=True)
        (entry,) = process.answer(3)["result"]["structuredContent"]["executions"]
        assert entry["outcome"] == "cancelled"


@pytest.mark.parametrize("era", ERAS)
async def test_an_agent_comes_back_to_its_files(data_dir: Path, era: str) -> None:
    async with over_stdio(data_dir, "--agent", "ada", era=era) as client:
        await client.run("open('note', 'w').write('kept')")
    async with over_stdio(data_dir, "--agent", "ada", era=era) as client:
        assert (await client.run("open('note').read()"))["result"] == "'kept'"
        agent = (await client.data("vms"))["agent_id"]
    assert agent == "ada"
    async with over_stdio(data_dir, era=era) as client:
        assert (await client.data("vms"))["agent_id"].startswith(TEMPORARY)
        gone = await client.run("open('note')")
        assert "FileNotFoundError" in gone["stderr"]["text"]


async def test_with_a_server_it_works_there(data_dir: Path) -> None:
    with Server(data_dir) as server:
        async with (
            over_stdio(data_dir, "--agent", "ada") as found,  # it has the data directory
            over_stdio(data_dir, "--agent", "bob", "--server", server.url, era=LEGACY) as named,
        ):
            ada, bob = await asyncio.gather(
                found.run("me = 'ada'; me"), named.run("me = 'bob'; me")
            )
            assert (ada["result"], bob["result"]) == ("'ada'", "'bob'")
            assert (await found.run("me"))["result"] == "'ada'"
            text = await named.refused("run_code", code="1", vm_id=ada["vm_id"])
            assert "VM not available" in text
            text = await named.refused("read_output", execution_id=ada["execution_id"])
            assert "no execution" in text
        async with over_stdio(data_dir) as client:
            temporary = (await client.run("kept = 1"))["vm_id"]
            async with over_http(server.url) as other:  # the first there is of these
                await other.run("1")
            assert (await client.run("kept"))["result"] == "1"
        assert temporary not in {path.name for path in vms(data_dir)}
        assert len(vms(data_dir)) == 3  # of ada, bob and mcp


def refusal(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command("mcp", *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_refusals(data_dir: Path) -> None:
    with Process(data_dir) as process:
        process.initialize()
        code, out, err = refusal("--data-dir", str(data_dir))
    assert (code, out) == (125, "")
    assert f"is in use by process {process.process.pid}" in err
    assert "--server" in err
    code, out, err = refusal("--server", "http://127.0.0.1:9", "--data-dir", str(data_dir))
    assert (code, out) == (125, "")
    assert "Connection error" in err
    code, out, err = refusal("--agent", "no spaces", "--data-dir", str(data_dir))
    assert (code, out) == (125, "")
    assert "agent_id must be" in err
