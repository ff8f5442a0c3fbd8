"""Input and output of programs."""

import asyncio
import time

import pytest

pytestmark = pytest.mark.anyio
LANGUAGES = ("python", "bash")
LIMIT = 1024 * 1024


async def test_output_comes_as_it_is_written(machine) -> None:
    pieces: list[tuple[float, str, bytes]] = []
    await machine.run(
        "echo a; sleep 0.3; echo b >&2; sleep 0.3; echo c",
        on_output=lambda name, data: pieces.append((time.monotonic(), name, data)),
    )
    assert [piece[1:] for piece in pieces] == [
        ("stdout", b"a\n"),
        ("stderr", b"b\n"),
        ("stdout", b"c\n"),
    ]
    assert pieces[1][0] - pieces[0][0] > 0.1


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
async def test_stdin_arrives_whole(machine, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    script = "cat | sha256sum | cut -c1-64"
    import hashlib

    expected = hashlib.sha256(data).hexdigest()
    assert (await machine.text(script, stdin=data)).strip() == expected


async def test_a_program_that_ignores_its_stdin(machine) -> None:
    assert await machine.text("echo done", stdin=b"x" * 2_000_000) == "done\n"


async def test_a_program_that_closes_its_stdin(machine) -> None:
    assert await machine.text("exec 0<&-; sleep 0.1; echo done", stdin=b"x" * 999_999) == "done\n"


async def test_no_stdin_is_an_empty_one(machine) -> None:
    assert await machine.text("cat; echo end") == "end\n"


async def test_any_bytes_come_through(machine) -> None:
    result = await machine.run(
        "import sys; sys.stdout.buffer.write(bytes(range(256)) * 40)", "python"
    )
    assert result.stdout == bytes(range(256)) * 40


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_line_of_100_mb_is_cut(machine, language: str) -> None:
    code = {
        "python": "import sys\nfor _ in range(100): sys.stdout.write('x' * 1_000_000)",
        "bash": "head -c 100000000 /dev/zero | tr '\\0' x",
    }[language]
    result = await machine.run(code, language, timeout_ms=60_000)
    assert result.status == 0
    assert result.stdout == b"x" * LIMIT
    assert (result.stdout_bytes, result.truncated) == (100_000_000, True)


async def test_limits_of_the_two_streams_are_apart(machine) -> None:
    result = await machine.run("echo 12345678; echo abcdefgh >&2", limit=4)
    assert (result.stdout, result.stderr, result.truncated) == (b"1234", b"abcd", True)


async def test_closed_descriptors(machine) -> None:
    result = await machine.run("exec 1>&- 2>&-; sleep 0.2; exit 7")
    assert result.status == 7 << 8


async def test_many_at_once_keep_their_outputs_apart(machine) -> None:
    async def one(number: int) -> str:
        code = f"for i in range(200): print({number})"
        return await machine.text(code, "python")

    texts = await asyncio.gather(*(one(number) for number in range(24)))
    assert texts == [f"{number}\n" * 200 for number in range(24)]


async def test_a_flood_does_not_delay_others(machine) -> None:
    flood = asyncio.create_task(machine.run("yes", timeout_ms=3000 * machine.pace))
    await asyncio.sleep(0.3)
    start = time.monotonic()
    for _ in range(5):
        assert await machine.text("echo here") == "here\n"
    assert time.monotonic() - start < 2.5 * machine.pace
    assert (await flood).reason == "timeout"
