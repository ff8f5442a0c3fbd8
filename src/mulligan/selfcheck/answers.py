"""Probes whose outcome is looked at on the host's side: what comes back, and what stays behind."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from mulligan.languages import INSTALL_HINTS
from mulligan.selfcheck.inside.probing import short
from mulligan.selfcheck.places import Answer, Place
from mulligan.selfcheck.planted import Planted

MIB = 1024 * 1024
OUTPUT_AGENT = "selfcheck-output"
LIMITS_AGENT = "selfcheck-limits"
Seen = tuple[bool, str]


@dataclass(frozen=True)
class Asked:
    """What a probe of this side has at hand."""

    place: Place
    planted: Planted
    languages: tuple[str, ...]
    limits: dict[str, int]

    async def run(self, code: str, language: str = "python", **more: object) -> Answer:
        """Runs a program where it is asked of."""
        answer = await self.place.run(code, language, **more)  # type: ignore[arg-type]
        if self.planted.leaked(answer.text + answer.stderr):
            raise LeakedError
        return answer


class LeakedError(Exception):
    """The planted secret came back."""


class MissingError(Exception):
    """This host lacks what a probe needs; the text says what."""


@dataclass(frozen=True)
class AnswerProbe:
    """See ``inside.probing.Probe``; ``run`` is asynchronous here."""

    id: str
    tried: str
    must: str
    outside: str
    run: Callable[[Asked], Awaitable[Seen]]


ANSWERS: dict[str, AnswerProbe] = {}
Run = Callable[[Asked], Awaitable[Seen]]


def answer_probe(
    name: str, tried: str, must: str, outside: str = "fails"
) -> Callable[[Run], Run]:
    """Registers a function as a probe."""

    def register(run: Run) -> Run:
        ANSWERS[name] = AnswerProbe(name, tried, must, outside, run)
        return run

    return register


# What a terminal would be sent

SHOWN = {
    "ansi": ("escape sequences that clear, move and colour", "\x1b[2J\x1b[1;1H\x1b[31mred\x1b[0m"),
    "title": ("a new title for the window (OSC 0)", "\x1b]0;title\x07"),
    "clipboard": ("text for the clipboard (OSC 52)", "\x1b]52;c;aGk=\x07"),
    "hyperlink": ("a link that says something else (OSC 8)", "\x1b]8;;file:///\x1b\\here\x1b]8;;\x1b\\"),
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
            raw = sorted({f"U+{ord(c):04X}" for c in answer.shown if not (c.isprintable() or c == "\n")})
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


@answer_probe("output.stderr_flood", "print 3 MB to standard error", "cut at the limit, and said to be")
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

FRAMES = "import struct\ndef frame(kind, body): return struct.pack('>IBBI', len(body), 1, kind, 1) + body\n"
SAID = {
    "frames": (
        "the agent's frame that says it ended well",
        FRAMES + "said = frame(69, b'{\"reason\":\"exit\",\"status\":0}') + frame(71, b'{}')\n",
    ),
    "frame_header": (
        "the beginning of a frame of 4 GiB",
        "import struct\nsaid = struct.pack('>IBBI', 2**32 - 1, 1, 67, 1)\n",
    ),
    "result": (
        "the answer of an execution that went well",
        'said = b\'{"execution_id":"exec-0","vm_id":"vm-0","exit_code":0,"outcome":"success"}\\n\'\n',
    ),
    "event": (
        "an event of a stream that ends it",
        "said = b'event: completed\\ndata: {\"exit_code\": 0}\\n\\n'\n",
    ),
    "verdict": (
        "the line of a probe of this check that passed",
        "said = b'[\"parser.verdict\", true, \"fine\"]\\n'\n",
    ),
    "markup": ("markup of the command line and of web pages", "said = b'[bold]x[/bold]<script>x</script>'\n"),
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
            return ended and bool(answer.text), f"exit code {answer.exit_code}, {answer.outcome}"

        answer_probe(
            f"parser.{name}", f"print {what}, and end with 7", "it is output, and 7 is its end", "passes"
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
        FRAMES + "import os\nsaid = frame(69, b'{\"reason\":\"exit\",\"status\":0}')\n"
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


# What stays behind


def _register_private() -> None:
    for name, directory in {"tmp": "/tmp", "shm": "/dev/shm", "var_tmp": "/var/tmp"}.items():  # noqa: S108

        async def run(asked: Asked, directory: str = directory) -> Seen:
            path = Path(directory) / f"selfcheck-{secrets.token_hex(8)}"
            try:
                answer = await asked.run(f"open({str(path)!r}, 'x').close(); print('made')")
                there = path.exists()
            finally:
                path.unlink(missing_ok=True)
            return answer.text == "made\n" and not there, "on the host" if there else "not on the host"

        answer_probe(
            f"files.written_{name}", f"make a file in {directory}", "the host does not get it"
        )(run)


_register_private()


@answer_probe(
    "resources.time", "sleep for 4 s, deaf to SIGTERM, with a limit of 1 s", "ended at its limit"
)
async def time_limit(asked: Asked) -> Seen:
    code = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(4)\nprint('through')"
    answer = await asked.run(code, timeout_s=1)
    return answer.outcome == "timeout" and not answer.text, answer.outcome


@answer_probe(
    "resources.left_behind",
    "leave a child in a session of its own that sleeps for 6 s",
    "gone when the program's answer is there",
)
async def left_behind(asked: Asked) -> Seen:
    name = f"left-{secrets.token_hex(8)}"
    # The name reaches the child by a pipe: no command line but its own has it.
    code = (
        "import os, subprocess, sys\nname = sys.stdin.read()\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(6)', name],\n"
        "    start_new_session=True, stdin=-3, stdout=-3, stderr=-3)\n"
    )
    await asked.run(code, stdin=name)
    look = (
        "import os, sys\nname = sys.stdin.read().encode()\nfound = 0\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try: found += name in open(f'/proc/{pid}/cmdline', 'rb').read()\n"
        "    except OSError: pass\nprint(found)"
    )
    answer = await asked.run(look, stdin=name)
    return answer.text == "0\n", f"{answer.text.strip()} left"


@answer_probe(
    "resources.memory",
    "touch a quarter more memory than is allowed",
    "the program is ended, and the VM goes on",
    "untried",
)
async def memory(asked: Asked) -> Seen:
    mib = asked.limits["memory_mb"] * 5 // 4
    code = f"kept = []\nfor _ in range({mib}): kept.append(b'm' * 1048576)\nprint('through')"
    answer = await asked.run(code, agent=LIMITS_AGENT)
    alive = await asked.run("print('alive')", agent=LIMITS_AGENT)
    good = answer.outcome == "out_of_memory" and alive.text == "alive\n"
    return good, f"{answer.outcome}; afterwards {alive.text.strip()}"


# The other languages, and live interpreters


def _spies(planted: Planted) -> dict[str, str]:
    """Programs that print what they find at the places of the secret."""
    facts = planted.facts
    paths = [*facts["files"].values(), facts["socket"]]
    quoted = " ".join(f"'{path}'" for path in paths)
    return {
        "bash": f"cat {quoted} 2>/dev/null; env; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ "
        f"2>/dev/null | tr '\\0' '\\n'; cat < /dev/tcp/127.0.0.1/{facts['tcp4']}; echo end",
        "javascript": f"const fs = require('fs');\nlet said = [JSON.stringify(process.env)];\n"
        f"for (const path of {json.dumps(paths)}) "
        "try { said.push(fs.readFileSync(path, 'utf8')); } catch (error) { said.push(error.code); }\n"
        "for (const pid of fs.readdirSync('/proc')) for (const name of ['cmdline', 'environ']) "
        "try { said.push(fs.readFileSync(`/proc/${pid}/${name}`, 'utf8')); } catch { }\n"
        "console.log(said.join('\\n')); console.log('end');",
        "rust": f"fn main() {{ for path in {json.dumps(paths)} {{ "
        'println!("{:?}", std::fs::read_to_string(path)); }\n'
        'for (name, value) in std::env::vars() { println!("{name}={value}"); }\n'
        f'println!("{{:?}}", std::net::TcpStream::connect("127.0.0.1:{facts["tcp4"]}")'
        ".map(std::io::read_to_string));\n"
        'println!("end"); }',
    }


async def _spied(asked: Asked, language: str) -> Seen:
    if language not in asked.languages:
        raise MissingError(f"not on this host: {language} ({INSTALL_HINTS[language]})")
    answer = await asked.run(_spies(asked.planted)[language], language)
    done = answer.text.endswith("end\n")
    return done, "not found" if done else f"it failed: {short(answer.stderr)}"


def _register_languages() -> None:
    for language, outside in {"bash": "fails", "javascript": "fails", "rust": "untried"}.items():

        async def run(asked: Asked, language: str = language) -> Seen:
            return await _spied(asked, language)

        answer_probe(
            f"runtime.language_{language}",
            f"look for the secret with a {language.title()} program, everywhere it was planted",
            "not found",
            outside,
        )(run)


_register_languages()


@answer_probe(
    "runtime.live_interpreter",
    "look for the secret in a cell of a live Python interpreter",
    "not found",
)
async def live_interpreter(asked: Asked) -> Seen:
    paths = [*asked.planted.facts["files"].values()]
    code = (
        "import os, glob\n"
        f"for path in {paths!r} + glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try: print(open(path, 'rb').read().decode(errors='replace'))\n"
        "    except OSError as error: print(error.strerror)\n"
        "print(dict(os.environ)); print('end')"
    )
    answer = await asked.run(code, kernel="selfcheck")
    done = answer.text.endswith("end\n")
    return done, "not found" if done else f"it failed: {short(answer.stderr)}"


async def settled() -> None:
    """Lets what a probe has left on purpose outside a VM come to its end."""
    await asyncio.sleep(0)
