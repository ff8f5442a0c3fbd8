"""The secret, looked for with every language and by a live interpreter."""

from __future__ import annotations

import json

from mulligan.languages import INSTALL_HINTS
from mulligan.selfcheck.answers import Asked, MissingError, Seen, answer_probe
from mulligan.selfcheck.inside.probing import short
from mulligan.selfcheck.planted import Planted


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
        "try { said.push(fs.readFileSync(path, 'utf8')); } catch { }\n"
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
        "found = glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline')\n"
        f"for path in {paths!r} + found:\n"
        "    try: print(open(path, 'rb').read().decode(errors='replace'))\n"
        "    except OSError as error: print(error.strerror)\n"
        "print(dict(os.environ)); print('end')"
    )
    answer = await asked.run(code, kernel="selfcheck")
    done = answer.text.endswith("end\n")
    return done, "not found" if done else f"it failed: {short(answer.stderr)}"
