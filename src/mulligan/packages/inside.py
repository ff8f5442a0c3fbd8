"""Runs in a builder: has uv or npm make a set of packages.

This file is no module of the server: its text is the program of an execution in a VM without a
network. It needs the standard library alone. On 127.0.0.1 it passes connections on to the gate's
socket; standard input is one JSON object, standard output one JSON object a line: ``step`` while it
works, and at its end ``resolved``, or ``failed`` with what was said.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

GATE = "/mnt/gate"
UV = "/mnt/uv"
CACHE = "/tmp/cache"  # noqa: S108  (the VM's own)
MOST_SAID = 8000
PIECE = 65536
# What cannot be compiled is none of its packages' modules, and left alone.
COMPILE = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2, workers=0)"


def say(**what: object) -> None:
    """One line to the host."""
    print(json.dumps(what), flush=True)  # noqa: T201


class Failed(Exception):  # noqa: N818
    """A step said no."""


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes bytes on to their end."""
    try:
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection to the gate."""
    try:
        gate_reader, gate_writer = await asyncio.open_unix_connection(GATE)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, gate_writer), pump(gate_reader, writer))
    writer.close()
    gate_writer.close()


async def run(step: str, command: list[str], env: dict[str, str], cwd: str) -> str:
    """Runs a program to its end; what it printed.

    Raises:
        Failed: it failed.
    """
    say(step=step)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **env},
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:  # such as for want of the C library it is made for
        raise Failed(step, f"{command[0]} does not run here: {error.strerror}") from None
    stdout, stderr = await process.communicate()
    if process.returncode:
        said = (stderr or stdout).decode(errors="replace")
        raise Failed(step, said[-MOST_SAID:])
    return stdout.decode(errors="replace")


def write(path: str, text: str) -> None:
    """Writes a file, whose directory is made if it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def read(path: str) -> str:
    """What a file says."""
    return Path(path).read_text()


async def python(task: dict[str, Any], port: int) -> list[dict[str, Any]]:
    """A virtual environment with what was asked for."""
    base, target = f"http://127.0.0.1:{port}", task["target"]
    indexes = [f"{base}/simple/{number}/" for number in range(task["indexes"])]
    env = {
        "NO_COLOR": "1",
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_CACHE_DIR": CACHE,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_LINK_MODE": "hardlink",
        "UV_HTTP_TIMEOUT": "120",
        "UV_INDEX_STRATEGY": task["strategy"],
        "UV_INDEX": " ".join(indexes[1:]),
        "UV_FIND_LINKS": ",".join(f"{base}/links/{n}/" for n in range(task["links"])),
    }
    if indexes:
        env["UV_DEFAULT_INDEX"] = indexes[0]
    env = {name: value for name, value in env.items() if value}
    wheels = [] if task["builds"] else ["--no-build"]
    none = [] if indexes else ["--no-index"]
    create = [UV, "venv", "-q", "--system-site-packages", "--python", task["program"], target]
    await run("preparing", create, env, "/")
    asked, lock = f"{task['work']}/requirements.in", f"{task['work']}/requirements.txt"
    write(asked, "".join(f"{each}\n" for each in task["requirements"]))
    interpreter = f"{target}/bin/python"
    options = ["--python", interpreter, *wheels, *none]
    resolve = [UV, "pip", "compile", "-q", "--generate-hashes", "--no-header", "--no-annotate"]
    resolve += ["--no-emit-index-url", *options, "-o", lock, asked]
    await run("resolving", resolve, env, task["work"])
    resolved = locked(read(lock))  # before there is anything of packages that could run
    install = [UV, "pip", "install", "-q", "--require-hashes", "--no-deps"]
    await run("installing", [*install, *options, "-r", lock], env, task["work"])
    # Not by uv: it starts the environment's own interpreter, which runs what .pth files say.
    await run("compiling", [task["program"], "-I", "-S", "-c", COMPILE, target], env, "/")
    return resolved


def locked(text: str) -> list[dict[str, Any]]:
    """What a file of requirements with hashes pins."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        words = line.strip().rstrip("\\").split()
        if line[:1].strip() and words and "==" in words[0]:
            name, _, version = words[0].partition("==")
            found.append({"name": name, "version": version, "hashes": []})
        for word in words:
            if word.startswith("--hash=") and found:
                found[-1]["hashes"].append(word.removeprefix("--hash="))
    return found


async def javascript(task: dict[str, Any], port: int) -> list[dict[str, Any]]:
    """A node_modules with what was asked for."""
    target = task["target"]
    package = {"name": "packages", "version": "1.0.0", "private": True}
    write(f"{target}/package.json", json.dumps(package))
    env = {"NO_COLOR": "1", "NO_UPDATE_NOTIFIER": "1", "HOME": task["work"]}
    options = ["--no-audit", "--no-fund", "--no-progress", "--loglevel=error", "--save-exact"]
    options += [
        f"--registry=http://127.0.0.1:{port}/npm/",
        f"--cache={CACHE}",
        "--no-color",
        "--no-update-notifier",
    ]
    none = f"{task['work']}/no-npmrc"
    options += [f"--userconfig={none}-1", f"--globalconfig={none}-2", "--fetch-retries=1"]
    if not task["builds"]:
        options.append("--ignore-scripts")
    first = [*task["program"], "install", *options, "--package-lock-only", "--"]
    await run("resolving", [*first, *task["requirements"]], env, target)
    packages = json.loads(read(f"{target}/package-lock.json"))["packages"]
    await run("installing", [*task["program"], "ci", *options], env, target)
    return [
        {
            "name": path.rpartition("node_modules/")[2],
            "version": each.get("version", ""),
            "hashes": [each["integrity"]] if "integrity" in each else [],
        }
        for path, each in packages.items()
        if path
    ]


async def main() -> int:
    """Does what standard input asks for; an exit status."""
    task = json.load(sys.stdin)
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    work = python if task["language"] == "python" else javascript
    try:
        resolved = await work(task, port)
    except Failed as failure:
        step, said = failure.args
        say(failed=step, said=said.replace(f"http://127.0.0.1:{port}", ""))
        return 1
    say(resolved=resolved)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
