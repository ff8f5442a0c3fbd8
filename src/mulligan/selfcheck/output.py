"""What comes back to the host: for terminals, for JSON, and for whoever reads it."""

from __future__ import annotations

import json

from mulligan.selfcheck.answers import Asked, Seen, answer_probe
from mulligan.selfcheck.inside.probing import short

MIB = 1024 * 1024
OUTPUT_AGENT = "selfcheck-output"

# What a terminal would be sent

SHOWN = {
    "ansi": ("escape sequences that clear, move and colour", "\x1b[2J\x1b[1;1H\x1b[31mred\x1b[0m"),
    "title": ("a new title for the window (OSC 0)", "\x1b]0;title\x07"),
    "clipboard": ("text for the clipboard (OSC 52)", "\x1b]52;c;aGk=\x07"),
    "hyperlink": (
        "a link that says something else (OSC 8)",
        "\x1b]8;;file:///\x1b\\here\x1b]8;;\x1b\\",
    ),
    "answerback": ("a question the terminal answers into the shell (DSR, DA)", "\x1b[6n\x1b[c\x05"),
    "c1": ("control characters of eight bits", "\x9b31mred\x9d0;title\x9c\x85"),
    "overwrite": ("carriage returns and backspaces over what was said", "bad\rgood\b\b\b\bfine"),
    "bidi": ("characters that turn the direction of text", "\u202egnp.exe\u2066\u2069\u200f"),
    "invisible": ("characters nobody sees", "a\u200bb\ufeffc\u00add\U000e0041"),
    "nul": ("NULs", "a\x00b\x00"),
}


def _register_shown() -> None:
    for name, (what, said) in SHOWN.items():

        async def run(asked: Asked, said: str = said) -> Seen:
            code = f"import sys; sys.stdout.buffer.write({said.encode()!r}); print(); print('end')"
            answer = await asked.run(code, agent=OUTPUT_AGENT)
            raw = sorted(
                {f"U+{ord(c):04X}" for c in answer.shown if not (c.isprintable() or c == "\n")}
            )
            whole = answer.text == f"{said}\nend\n"
            if not whole:
                return False, f"came back as {short(ascii(answer.text))}"
            return not raw, f"raw {' '.join(raw)}" if raw else "made visible"

        probe = answer_probe(f"output.{name}", f"print {what}", "a terminal gets none of them raw")
        probe(run)


_register_shown()


@answer_probe("output.long_line", "print a line of 10 MB", "cut at the limit, and said to be")
async def long_line(asked: Asked) -> Seen:
    code = "import sys\nfor _ in range(10): sys.stdout.write('x' * 1000000)"
    answer = await asked.run(code, agent=OUTPUT_AGENT)
    return answer.truncated and len(answer.text) <= MIB, f"{len(answer.text)} characters kept"


@answer_probe(
    "output.stderr_flood", "print 3 MB to standard error", "cut at the limit, and said to be"
)
async def stderr_flood(asked: Asked) -> Seen:
    code = "import sys\nfor _ in range(30000): sys.stderr.write('y' * 99 + '\\n')"
    answer = await asked.run(code, agent=OUTPUT_AGENT)
    return answer.truncated and len(answer.stderr) <= MIB, f"{len(answer.stderr)} characters kept"


@answer_probe("output.endless", "print for as long as it is let, 64 MB at most", "cut at the limit")
async def endless(asked: Asked) -> Seen:
    code = "import os\np = b'z' * 65536\nfor _ in range(1000): os.write(1, p)"
    answer = await asked.run(code, agent=OUTPUT_AGENT)
    return answer.truncated and len(answer.text) <= MIB, f"{len(answer.text)} characters kept"


BYTES = {
    "utf8": ("bytes that are no UTF-8", b"a\xff\xfe\xc3(b\xf0\x28"),
    "surrogates": ("surrogates, as no UTF-8 has them", b"a\xed\xa0\x80b"),
    "overlong": ("a slash and a NUL written too long", b"\xc0\xaf\xc0\x80"),
    "half": ("half a character at the end", b"a\xe2\x82"),
}


def _register_bytes() -> None:
    for name, (what, said) in BYTES.items():

        async def run(asked: Asked, said: bytes = said) -> Seen:
            code = f"import sys; sys.stdout.buffer.write({said!r})"
            answer = await asked.run(code, agent=OUTPUT_AGENT)
            if answer.stdout is None:
                return False, "no text"
            try:
                same = json.loads(json.dumps(answer.stdout).encode()) == answer.stdout
                answer.stdout.encode()
            except UnicodeError as error:
                return False, str(error)
            return same, short(ascii(answer.stdout))

        answer_probe(f"output.{name}", f"print {what}", "text that JSON and UTF-8 can carry")(run)


_register_bytes()


@answer_probe(
    "output.after_exit",
    "leave a child that prints two seconds after the program has ended",
    "it does not get to",
)
async def after_exit(asked: Asked) -> Seen:
    code = (
        "import os, time\nprint('first', flush=True)\n"
        "if os.fork() == 0:\n    os.setsid()\n    time.sleep(2)\n    print('late', flush=True)"
    )
    answer = await asked.run(code, agent=OUTPUT_AGENT)
    return answer.text == "first\n", short(answer.text)


@answer_probe("output.tiny", "print 20,000 times one character", "all, in order", "passes")
async def tiny(asked: Asked) -> Seen:
    code = "import os\nfor n in range(20000): os.write(1, b'%d' % (n % 10))"
    answer = await asked.run(code, agent=OUTPUT_AGENT)
    return answer.text == "0123456789" * 2000, f"{len(answer.text)} characters"


@answer_probe("output.closed", "close its outputs, and end with 3", "exit code 3", "passes")
async def closed(asked: Asked) -> Seen:
    answer = await asked.run("import os\nos.close(1)\nos.close(2)\nos._exit(3)", agent=OUTPUT_AGENT)
    return answer.exit_code == 3, f"exit code {answer.exit_code}"  # noqa: PLR2004


# What those who read output might take for their own

FRAMES = (
    "import struct\n"
    "def frame(kind, body): return struct.pack('>IBBI', len(body), 1, kind, 1) + body\n"
)
SAID = {
    "frames": (
        "the agent's frame that says it ended well",
        FRAMES + 'said = frame(69, b\'{"reason":"exit","status":0}\') + frame(71, b\'{}\')\n',
    ),
    "frame_header": (
        "the beginning of a frame of 4 GiB",
        "import struct\nsaid = struct.pack('>IBBI', 2**32 - 1, 1, 67, 1)\n",
    ),
    "result": (
        "the answer of an execution that went well",
        'said = b\'{"execution_id":"exec-0","exit_code":0,"outcome":"success"}\\n\'\n',
    ),
    "event": (
        "an event of a stream that ends it",
        "said = b'event: completed\\ndata: {\"exit_code\": 0}\\n\\n'\n",
    ),
    "verdict": (
        "the line of a probe of this check that passed",
        'said = b\'["parser.verdict", true, "fine"]\\n\'\n',
    ),
    "markup": (
        "markup of the command line and of web pages",
        "said = b'[bold]x[/bold]<script>x</script>'\n",
    ),
    "headers": (
        "the end of an HTTP answer and another one",
        "said = b'\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n'\n",
    ),
}


def _register_said() -> None:
    for name, (what, prepare) in SAID.items():

        async def run(asked: Asked, prepare: str = prepare) -> Seen:
            code = prepare + "import os\nos.write(1, said)\nos.write(2, said)\nos._exit(7)"
            answer = await asked.run(code, agent=OUTPUT_AGENT)
            ended = (answer.exit_code, answer.outcome) == (7, "failed")
            return ended and bool(answer.shown), f"exit code {answer.exit_code}, {answer.outcome}"

        answer_probe(
            f"parser.{name}",
            f"print {what}, and end with 7",
            "it is output, and 7 is its end",
            "passes",
        )(run)


_register_said()


@answer_probe(
    "parser.descriptors",
    "write the agent's frames into every descriptor up to 1023, and end with 7",
    "it is output at most, and 7 is its end",
    "passes",
)
async def descriptors(asked: Asked) -> Seen:
    code = (
        FRAMES + 'import os\nsaid = frame(69, b\'{"reason":"exit","status":0}\')\n'
        "for n in range(1024):\n    try: os.write(n, said)\n    except OSError: pass\nos._exit(7)"
    )
    answer = await asked.run(code, agent=OUTPUT_AGENT)
    return answer.exit_code == 7, f"exit code {answer.exit_code}"  # noqa: PLR2004


ENDS = {
    "exit_large": ("exit with 2**31 + 5", "import os; os._exit((2**31 + 5) & 0x7fffffff)", 5),
    "exit_negative": ("exit with -1", "import os; os._exit(-1)", 255),
    "exit_text": ("exit with a text", "raise SystemExit('\\x1b[2J')", 1),
    "killed": ("end itself by SIGKILL", "import os; os.kill(os.getpid(), 9)", 137),
    "stopped_child": ("end by SIGTERM", "import os; os.kill(os.getpid(), 15)", 143),
}


def _register_ends() -> None:
    for name, (what, code, wanted) in ENDS.items():

        async def run(asked: Asked, code: str = code, wanted: int = wanted) -> Seen:
            answer = await asked.run(code, agent=OUTPUT_AGENT)
            return answer.exit_code == wanted, f"exit code {answer.exit_code}"

        answer_probe(f"parser.{name}", what, f"exit code {wanted}", "passes")(run)


_register_ends()
