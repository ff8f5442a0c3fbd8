"""Every tool, by the official client, over both transports and both generations of the protocol."""

import base64
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from support import host
from support.mcp_clients import ERAS, Connected, over_http, over_stdio, said
from support.server import Server

pytestmark = pytest.mark.anyio

PICTURE = """
import struct, zlib
class Picture:
    def _repr_png_(self):
        def chunk(kind, data):
            return (struct.pack('>I', len(data)) + kind + data
                    + struct.pack('>I', zlib.crc32(kind + data)))
        head = struct.pack('>IIBBBBB', 1, 1, 8, 2, 0, 0, 0)
        return (b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', head)
                + chunk(b'IDAT', zlib.compress(b'\\0\\xff\\0\\0')) + chunk(b'IEND', b''))
"""


@asynccontextmanager
async def connected(transport: str, era: str, data_dir: Path) -> AsyncIterator[Connected]:
    if transport == "stdio":
        async with over_stdio(data_dir, era=era) as client:
            yield client
        return
    with Server(data_dir) as server:
        async with over_http(server.url, era) as client:
            yield client


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_each_tool(data_dir: Path, transport: str, era: str) -> None:
    async with connected(transport, era, data_dir) as client:
        await check_running(client)
        await check_time_machine(client)
        await check_forks(client)
        await check_answers(client)
        await check_files(client)
    assert host.wait_until(lambda: not host.naming(data_dir))


async def check_running(client: Connected) -> None:
    first = await client.run("scores = {'ada': 3}\nprint('hello')\nlen(scores)")
    assert (first["outcome"], first["exit_code"], first["kernel"]) == ("success", 0, "main")
    assert (first["stdout"]["text"], first["result"]) == ("hello\n", "1")
    assert (await client.run("scores"))["result"] == "{'ada': 3}"
    shell = await client.run("echo out; echo err >&2; exit 3", language="bash")
    assert (shell["outcome"], shell["exit_code"]) == ("failed", 3)
    assert (shell["stdout"]["text"], shell["stderr"]["text"]) == ("out\n", "err\n")
    assert shell["kernel"] is None
    alone = await client.run("print('scores' in globals(), input())", kernel="none", stdin="hi\n")
    assert alone["stdout"]["text"] == "False hi\n"
    drawn = await client.call("run_code", code=PICTURE + "Picture()")
    assert not drawn.is_error
    (picture,) = [each for each in drawn.content if each.type == "image"]
    assert picture.mime_type == "image/png"
    assert base64.b64decode(picture.data).startswith(b"\x89PNG")
    assert drawn.structured_content["images"] == 1
    late = await client.run("while True: pass", kernel="none", timeout_seconds=1)
    assert (late["outcome"], late["exit_code"]) == ("timeout", 124)
    ended = await client.data("cancel", execution_id=late["execution_id"])
    assert (ended["state"], ended["outcome"]) == ("ended", "timeout")


async def check_time_machine(client: Connected) -> None:
    await client.run("echo one > note", language="bash")
    named = await client.data("snapshot", name="good", description="before the accident")
    broke = await client.run("scores.clear()\nopen('note', 'w').write('two')\nopen('junk', 'w')")
    changed = await client.data("diff")
    assert {(each["path"], each["change"]) for each in changed["changes"]} == {
        ("/workspace/junk", "added"),
        ("/workspace/note", "changed"),
    }
    (note,) = [each for each in changed["changes"] if each["path"].endswith("note")]
    assert "-one" in note["text_diff"]
    undone = await client.call("rollback")
    assert undone.structured_content["undone_executions"] == [broke["execution_id"]]
    assert f"- {broke['execution_id']} python: scores.clear()" in said(undone)
    assert "Variables of python interpreter main: kept." in said(undone)
    assert {
        (each["path"], each["change"]) for each in undone.structured_content["file_changes"]
    } == {
        ("/workspace/junk", "removed"),
        ("/workspace/note", "changed"),
    }
    looked = await client.run("open('note').read(), scores")
    assert looked["result"] == "('one\\n', {'ada': 3})"
    again = await client.data("rollback", snapshot_id=undone.structured_content["kept_snapshot_id"])
    assert again["undone_executions"] == [looked["execution_id"]]
    assert (await client.run("open('note').read(), scores"))["result"] == "('two', {})"
    await client.data("rollback", snapshot_id=named["snapshot_id"])
    listed = (await client.data("snapshots"))["snapshots"]
    assert ("good", "before the accident", "manual") in {
        (each["name"], each["description"], each["kind"]) for each in listed
    }
    page = await client.data("history", limit=2, search="note")
    assert len(page["executions"]) == 2
    assert page["total"] > 2
    assert page["next_offset"] == 2
    older = await client.data("history", limit=50, search="note", offset=2)
    assert len(older["executions"]) == page["total"] - 2
    assert older["next_offset"] is None
    failures = await client.data("history", failures_only=True, language="bash")
    assert [each["exit_code"] for each in failures["executions"]] == [3]


async def check_forks(client: Connected) -> None:
    forked = await client.data("fork", count=2)
    one, two = (each["vm_id"] for each in forked["vms"])
    await client.run("echo changed > note", language="bash", vm_id=one)
    told = [await client.run("cat note", language="bash", vm_id=vm) for vm in (one, two)]
    assert [each["stdout"]["text"] for each in told] == ["changed\n", "one\n"]
    assert [each["vm_id"] for each in told] == [one, two]
    everyone = (await client.data("vms"))["vms"]
    assert [each["current"] for each in everyone] == [True, False, False]
    await client.data("remove_vm", vm_id=one)
    assert "VM not available" in await client.refused("diff", vm_id=one)
    assert len((await client.data("vms"))["vms"]) == 2


async def check_answers(client: Connected) -> None:
    answer = (
        "Run this:\n\n```python\nsquares = [n * n for n in range(4)]\nprint(squares)\n```\n\n"
        "then\n\n```bash\nexit 4\n```\n\nand\n\n```bash\necho never\n```\n"
    )
    found = await client.data("run_answer", answer=answer, execute=False)
    assert [each["state"] for each in found["blocks"]] == ["not run"] * 3
    done = await client.call("run_answer", answer=answer, threshold=0.3)
    blocks = done.structured_content["blocks"]
    assert [each["state"] for each in blocks] == ["ran", "failed", "not run"]
    assert blocks[0]["execution"]["stdout"]["text"] == "[0, 1, 4, 9]\n"
    assert blocks[1]["execution"]["exit_code"] == 4
    assert blocks[2]["error"] == "block 2 failed"
    assert "[0, 1, 4, 9]" in said(done)
    assert (await client.run("squares"))["result"] == "[0, 1, 4, 9]"
    none = await client.data("run_answer", answer=answer, threshold=1.0)
    assert {each["state"] for each in none["blocks"]} <= {"ran", "below threshold", "failed"}


async def check_files(client: Connected) -> None:
    text = "".join(f"{n} – Zeile\n" for n in range(3000))
    done = await client.data("write_file", path="deep/er/text", content=text, mode="0600")
    assert (done["path"], done["mode"]) == ("/workspace/deep/er/text", "0600")
    assert done["size"] == len(text.encode())
    parts, offset = [], 0
    while offset is not None:
        part = await client.data("read_file", path="deep/er/text", offset=offset, length=9999)
        assert part["offset"] == offset
        parts.append(part["text"])
        offset = part["next_offset"]
    assert "".join(parts) == text
    await client.data("rollback", snapshot_id=done["snapshot_before"])
    assert "File error" in await client.refused("read_file", path="deep/er/text")
    data = base64.b64encode(bytes(range(256))).decode()
    await client.data("write_file", path="bytes", content=data, encoding="base64")
    assert 'encoding="base64"' in await client.refused("read_file", path="bytes")
    assert (await client.data("read_file", path="bytes", encoding="base64"))["text"] == data
    await client.run(PICTURE + "open('p.png', 'wb').write(Picture()._repr_png_())")
    shown = await client.call("read_file", path="p.png", length=20)
    assert [each.type for each in shown.content] == ["text", "image"]
    assert base64.b64decode(shown.content[1].data).endswith(b"IEND\xaeB`\x82")
    await client.run("mkdir d; ln -s /etc/passwd link", language="bash")
    listed = (await client.data("list_files"))["entries"]
    assert {(each["name"], each["type"], each["target"]) for each in listed} >= {
        ("bytes", "file", None),
        ("d", "directory", None),
        ("link", "symlink", "/etc/passwd"),
        ("p.png", "file", None),
    }
    assert (await client.data("list_files", limit=1))["truncated"]


@pytest.mark.parametrize("era", ERAS)
class TestOutput:
    def open(self, server: Server, era: str) -> AbstractAsyncContextManager[Connected]:
        return over_http(server.url, era, query="?agent_id=reader")

    async def test_long_output_is_read_on(self, server: Server, era: str) -> None:
        code = "for i in range(5000): print(f'{i:05}', 'x' * (i % 7))"
        whole = "".join(f"{i:05} {'x' * (i % 7)}\n" for i in range(5000))
        async with self.open(server, era) as client:
            ran = await client.run(code)
            shown = ran["stdout"]
            assert shown["length"] == len(whole)
            assert len(shown["text"]) < 10_000
            call = f'read_output(execution_id="{ran["execution_id"]}", stream="stdout", offset='
            assert call in shown["text"]
            head, _, rest = shown["text"].partition("[… ")
            tail = rest.partition("…]\n")[2]
            assert whole.startswith(head)
            assert whole.endswith(tail)
            assert "04999" in tail
            offset, parts = shown["next_offset"], [head]
            assert offset == len(head)
            while offset is not None:
                part = await client.data(
                    "read_output", execution_id=ran["execution_id"], offset=offset, length=20_000
                )
                assert part["length"] == len(whole)
                parts.append(part["text"])
                offset = part["next_offset"]
            assert "".join(parts) == whole

    async def test_output_is_cleaned(self, server: Server, era: str) -> None:
        code = r"print('\x1b[31mred\x1b[0m \x07 50%\r100%\nsame\x1b]0;title\x07'); print('\u202e')"
        async with self.open(server, era) as client:
            ran = await client.run(code)
            assert ran["stdout"]["text"] == "100%\nsame\\x1b]0;title\\x07\n\\u202e\n"
            part = await client.data("read_output", execution_id=ran["execution_id"])
            assert part["text"] == ran["stdout"]["text"]

    async def test_what_says_it_is_a_picture_and_is_none(self, server: Server, era: str) -> None:
        code = "class Liar:\n    def _repr_png_(self):\n        return b'<svg/>'\nLiar()"
        async with self.open(server, era) as client:
            result = await client.call("run_code", code=code)
            assert [each.type for each in result.content] == ["text"]
            assert "a result of type image/png" in said(result)

    async def test_progress(self, server: Server, era: str) -> None:
        seen: list[tuple[float, str | None]] = []

        async def progress(at: float, _: float | None, message: str | None) -> None:
            seen.append((at, message))

        code = "import time\nfor i in range(4):\n    print('step', i, flush=True); time.sleep(0.3)"
        async with self.open(server, era) as client:
            await client.client.call_tool("run_code", {"code": code}, progress_callback=progress)
        assert [message for _, message in seen] == [f"step {i}\n" for i in range(4)]
        assert [at for at, _ in seen] == sorted({at for at, _ in seen})


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("tool", "given", "text"),
    [
        ("run_code", {}, "Parameters of run_code are wrong: code: Field required"),
        ("run_code", {"code": "1", "cod": 1}, "cod: Extra inputs are not permitted"),
        ("run_code", {"code": "1", "language": "cobol"}, "use one of: python, javascript"),
        ("run_code", {"code": " "}, "code is empty"),
        ("run_code", {"code": "x" * 10_001}, "exceeds maximum length of 10000"),
        ("run_code", {"code": "1", "vm_id": "vm-none"}, "VM not available: vm-none"),
        ("run_code", {"code": "1", "timeout_seconds": 10**9}, "timeout_seconds must be from 1"),
        ("run_code", {"code": "1", "kernel": "a b"}, "kernel must be 1 to 64"),
        ("run_code", {"code": "fn main(){}", "language": "rust", "kernel": "k"}, "no kernels"),
        ("run_code", {"code": "sudo rm -rf / --no-preserve-root", "language": "bash"}, "dangerous"),
        ("read_output", {"execution_id": "exec-none"}, "no execution exec-none"),
        ("read_output", {"execution_id": "x" * 500}, "at most 128 characters"),
        ("cancel", {"execution_id": "../x"}, "History error"),
        ("rollback", {"snapshot_id": "snap-none"}, "Snapshot not found"),
        ("rollback", {"execution_id": "a", "last_success": True}, "more than one place"),
        ("fork", {"count": 33}, "count: Input should be less than or equal to 32"),
        ("read_file", {"path": "no/such"}, "File error"),
        ("read_file", {"path": "a\0b"}, "File error"),
        ("write_file", {"path": "x", "content": "?", "encoding": "base64"}, "no base64"),
        ("list_files", {"path": "/proc/1/root/../../x"}, "File error"),
        ("diff", {"old": "snap-none"}, "Snapshot not found"),
        ("remove_vm", {"vm_id": "vm-none"}, "the tool vms lists"),
    ],
)
async def test_errors_say_what_to_do(
    server: Server, era: str, tool: str, given: dict[str, object], text: str
) -> None:
    async with over_http(server.url, era, query="?agent_id=clumsy") as client:
        assert text in await client.refused(tool, **given)
