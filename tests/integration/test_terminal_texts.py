"""Texts of programs on a person's terminal: seen, and never obeyed."""

import io
import json
import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mulligan.cli import console
from mulligan.models import DiffEntry, DiffResponse
from mulligan.printable import MOST_SHOWN, one_line
from support import host
from support.server import Server
from support.terminal import Terminal

# A title, a link, a clear, C1, overrides of direction, a page, markup, an emoji, a forged line.
EVIL = (
    "\x1b]0;t\x07\x1b]8;;http://x\x1b\\L\x1b[2J\x9b2J\u202eR\u2066\u200b\x7f\r[bold]B[/bold]"
    "[link=http://x]:bomb:<script>\nforged\trow"
)
OURS = re.compile(
    rb"\x1b\[[0-9;]*[mK]|\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K"
)  # colours, and a spinner's


def harmless(shown: bytes) -> str:
    """What a terminal was sent, without our own colours; nothing else may be in it."""
    text = OURS.sub(b"", shown).decode()
    left = text.replace("\r\n", "").replace("\r", "").replace("\n", "").replace("\t", "")
    assert left.isprintable(), [char for char in left if not char.isprintable()]
    return text


@pytest.fixture(scope="module")
def server():
    with host.data_directory() as path, Server(path, MULLIGAN_HOOKS__ENABLED="false") as running:
        with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
            code = (
                "import os, sys\n"
                f"name = {EVIL.replace('/', '.')!r}\n"
                "open(name, 'w').write(name)\n"
                "os.symlink(name, 'link')\n"
                "os.mkfifo('pipe' + name[:40])\n"
                "print(name); print(name, file=sys.stderr)\n"
            )
            asked = {"agent_id": "evil", "language": "python", "code": code}
            done = client.post("/api/llm/execute", json=asked).json()
            assert done["exit_code"] == 0, done
            vm = done["vm_id"]
            cell = (
                "import os\n"
                "class Value:\n"
                f"    def __repr__(self): return {EVIL!r}\n"
                f"    def _repr_html_(self): raise type({EVIL!r}, (Exception,), {{}})\n"
                "Value()"
            )
            asked = {"agent_id": "evil", "language": "python", "code": cell, "kernel": "main"}
            assert client.post("/api/llm/execute", json=asked).json()["exit_code"] == 0
            named = {"name": "[bold]B[/bold]:bomb:"}
            made = client.post(f"/api/vms/{vm}/snapshots", json=named)
            assert made.is_success, made.text
        yield running, vm, path


COMMANDS = {
    "ls": ("files", "ls", "{vm}"),
    "ls as JSON": ("files", "ls", "{vm}", "--json"),
    "history": ("history", "--vm", "{vm}"),
    "history as JSON": ("history", "--vm", "{vm}", "--json"),
    "diff": ("diff", "--vm", "{vm}"),
    "diff as JSON": ("diff", "--vm", "{vm}", "--json"),
    "snapshots": ("snapshot", "ls", "--vm", "{vm}"),
    "snapshots as JSON": ("snapshot", "ls", "--vm", "{vm}", "--json"),
    "VMs": ("vm", "ls"),
    "a VM": ("vm", "show", "{vm}"),
    "a file": ("files", "cat", "{vm}", "link"),
    "a file that is none": ("files", "cat", "{vm}", EVIL.replace("/", ".") + "none"),
    "output": ("run", "--agent", "evil", "-c", f"print({EVIL!r})"),
    "output as JSON": ("run", "--agent", "evil", "--json", "-c", f"print({EVIL!r})"),
    "a value": (
        "run", "--agent", "evil", "--kernel", "k",
        "-c", f"type('V', (), dict(__repr__=lambda self: {EVIL!r}))()",
    ),
    "a kernel that ends": (
        "run", "--agent", "evil", "--kernel", "j", "-c", "import os; os._exit(3)",
    ),
    "an error": ("run", "--agent", "evil", "--cwd", f"/{EVIL}".replace("http:/", ""), "-c", "1"),
    "what cannot be": ("run", "--agent", EVIL, "-c", "1"),
    "a VM there is not": ("vm", "show", EVIL.replace("/", ".")),
}  # fmt: skip


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=list(COMMANDS))
def test_a_terminal_is_sent_nothing_it_would_obey(server, arguments: tuple[str, ...]) -> None:
    _, vm, path = server
    words = [each.format(vm=vm) if "{vm}" in each else each for each in arguments]
    with Terminal(path, words[0], *words[1:], COLUMNS="300") as terminal:  # tables are not cut
        terminal.end()
    text = harmless(terminal.shown)
    assert "Traceback" not in text
    assert text.strip()
    if words[:2] == ["files", "ls"] and "--json" not in words:
        assert len(text.strip().splitlines()) == 3  # a name is one row
        assert "[bold]B" in text
    if words[0] == "snapshot":
        assert "[bold]B[/bold]:bomb:" in text
    if "--json" in words:
        json.loads(text)


def test_http_answers_are_no_pages(server) -> None:
    running, vm, _ = server
    with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
        link = {"path": "link"}
        answers = [
            client.get(f"/api/vms/{vm}/files", params=link),
            client.get(f"/api/vms/{vm}/files/list", params={"path": "."}),
            client.get(f"/api/vms/{vm}/files", params={"path": "<script>"}),
            client.get("/<script>alert(1)</script>"),
            client.get("/api/history", params={"vm_id": vm}),
            client.get("/health"),
            client.get("/metrics"),
            client.post("/api/llm/execute", content=b"<script>"),
        ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff", answer.url
        assert "default-src 'none'" in answer.headers["content-security-policy"], answer.url
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in ("application/json", "application/octet-stream", "text/plain"), answer.url
    assert answers[0].headers["content-disposition"].startswith("attachment; filename*=UTF-8''")
    assert EVIL.replace("/", ".").encode() == answers[0].content


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert "\t" not in shown
    assert "\r" not in shown


def test_one_line_is_bounded() -> None:
    assert len(one_line("x" * 10**6)) == MOST_SHOWN


@given(st.text(st.sampled_from("[]/\\ab=:\n\x1b\u202e"), max_size=30))
def test_markup_is_none(text: str) -> None:
    """Whatever brackets and backslashes it has, it is shown as it is, and ends what it is in."""
    recorder = Console(record=True, width=500, emoji=False, highlight=False, file=io.StringIO())
    recorder.print(f"[red]{console.within(text)}[/red]|", soft_wrap=True)
    recorder.print(console.within(text), soft_wrap=True)
    assert recorder.export_text() == f"{one_line(text)}|\n{one_line(text)}\n"


@given(st.text(max_size=50))
def test_json_is_the_same_value(text: str) -> None:
    entry = DiffEntry(path=text, change="added", kind="file")
    value = DiffResponse(vm_id="vm-1", entries=[entry])
    with console.out.capture() as caught:
        console.print_json(value)
    assert caught.get().replace("\n", "").isprintable()
    assert DiffResponse.model_validate_json(caught.get()) == value
