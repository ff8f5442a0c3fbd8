"""What a model is told of the tools, and the streams they are told over."""

import os
from importlib.util import find_spec

import httpx
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from mulligan.errors import VmExecutionError
from mulligan.mcp.reports import picture_type
from mulligan.mcp.streams import Lines, Writer
from mulligan.mcp.tools import TOOLS, Tool
from mulligan.server import mcp
from mulligan.settings import McpSettings


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_definitions(tool: Tool) -> None:
    definition = tool.definition()
    for schema in (definition.input_schema, definition.output_schema):
        assert schema is not None
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
    assert definition.input_schema["additionalProperties"] is False
    for name, field in definition.input_schema.get("properties", {}).items():
        assert field.get("description"), f"{name} says nothing of itself"
    assert 60 < len(tool.description) < 600
    hints = definition.annotations
    assert hints is not None
    assert not (hints.read_only_hint and hints.destructive_hint)


def test_what_is_said_of_limits_holds() -> None:
    properties = TOOLS["read_output"].definition().input_schema["properties"]
    assert f"{properties['length']['maximum']:,}" in TOOLS["read_output"].description
    properties = TOOLS["read_file"].definition().input_schema["properties"]
    assert f"{properties['length']['maximum']:,}" in TOOLS["read_file"].description
    properties = TOOLS["fork"].definition().input_schema["properties"]
    assert f"up to {properties['count']['maximum']} VMs" in TOOLS["fork"].description


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"<svg/>", None),
        (b"", None),
    ],
)
def test_pictures(data: bytes, kind: str | None) -> None:
    assert picture_type(data) == kind


@pytest.mark.anyio
async def test_lines_of_any_size() -> None:
    out, into = os.pipe()
    lines = Lines(out, 100)
    sent = [b"a", b"", b"x" * 100, b"x" * 101, b"y" * 5000, "é".encode(), b"\xff", b"last"]
    os.write(into, b"\n".join(sent))
    os.close(into)
    found = [line async for line in lines]
    os.close(out)
    long = "a message over the limit\n"
    assert found == ["a\n", "\n", "x" * 100 + "\n", long, long, "é\n", "�\n", "last\n"]


@pytest.mark.anyio
async def test_a_writer_says_that_its_reader_has_gone() -> None:
    out, into = os.pipe()
    writer = Writer(into)
    await writer.write("hä\n")
    await writer.flush()
    assert os.read(out, 100) == "hä\n".encode()
    os.close(out)
    await writer.write("gone\n")
    with pytest.raises(BrokenPipeError):
        await writer.flush()
    os.close(into)


@pytest.mark.anyio
async def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp, "find_spec", lambda name: None if name == "mcp" else find_spec(name))
    app = FastAPI()
    mcp.add_routes(app, McpSettings())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/mcp")
    assert answer.status_code == 501
    assert ".[mcp]" in answer.json()["remedy"]
    await mcp.close(app)


def test_the_command_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from mulligan.cli import mcp as command

    monkeypatch.setattr(command, "find_spec", lambda _: None)
    with pytest.raises(VmExecutionError) as caught:
        command.mcp()
    assert caught.value.remedy == "pip install '.[mcp]' where Mulligan's source is"
