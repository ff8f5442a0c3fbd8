"""What programs usually do works under the filters, and what does not says so clearly."""

import shutil

import pytest

pytestmark = pytest.mark.anyio

WHEEL = """
import subprocess, sys, zipfile
info = "tiny-1.0.dist-info/"
with zipfile.ZipFile("tiny-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("tiny.py", "ANSWER = 42\\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
    wheel.writestr(info + "RECORD", "")
subprocess.run(
    [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--target", "lib",
     "--disable-pip-version-check", "./tiny-1.0-py3-none-any.whl"], check=True)
sys.path.insert(0, "lib")
import tiny
print(tiny.ANSWER)
"""
PYTHON = {
    "multiprocessing": (
        "import multiprocessing as m\n"
        "for kind in 'fork', 'spawn', 'forkserver':\n"
        "    with m.get_context(kind).Pool(2) as pool: print(sum(pool.map(abs, [-1, -2, 3])))",
        "6\n6\n6\n",
    ),
    "asyncio": (
        "import asyncio\n"
        "async def main():\n"
        "    server = await asyncio.start_server(lambda r, w: w.close(), '127.0.0.1', 0)\n"
        "    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())\n"
        "    child = await asyncio.create_subprocess_exec('echo', 'well', stdout=-1)\n"
        "    print(await reader.read(), (await child.communicate())[0])\n"
        "    writer.close()\n"
        "asyncio.run(main())",
        "b'' b'well\\n'\n",
    ),
    "threads": (
        "import concurrent.futures as c\n"
        "with c.ThreadPoolExecutor(8) as pool: print(sum(pool.map(len, ['ab'] * 100)))",
        "200\n",
    ),
    "subprocess": (
        "import subprocess, signal\n"
        "p = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "p.send_signal(signal.SIGTERM); print(p.wait(), subprocess.getoutput('echo x'))",
        "-15 x\n",
    ),
    "sqlite": (
        "import sqlite3\n"
        "d = sqlite3.connect('d.db'); d.execute('pragma journal_mode=wal')\n"
        "d.execute('create table t (x)'); d.execute('insert into t values (7)'); d.commit()\n"
        "print(d.execute('select * from t').fetchall())",
        "[(7,)]\n",
    ),
    "shared memory": (
        "from multiprocessing import shared_memory as s\n"
        "m = s.SharedMemory(create=True, size=9); m.buf[0] = 5; print(m.buf[0])\n"
        "m.close(); m.unlink()",
        "5\n",
    ),
    "terminals": (
        "import os, pty\nprint(pty.spawn(['sh', '-c', 'test -t 0']))",
        "0\n",
    ),
    "timers and signals": (
        "import signal\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2, 0.01)\n"
        "signal.pause(); print('rung')",
        "rung\n",
    ),
    "files": (
        "import os, shutil, tempfile, mmap\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    with open(d + '/a', 'wb') as f: f.write(b'x' * 5000)\n"
        "    shutil.copytree(d, d + '/t'); os.rename(d + '/t/a', d + '/b')\n"
        "    os.chmod(d + '/b', 0o600)\n"
        "    with open(d + '/a', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m: m[0:1] = b'y'\n"
        "    os.setxattr(d + '/a', 'user.n', b'v'); print(os.getxattr(d + '/a', 'user.n'))",
        "b'v'\n",
    ),
    "pip": (WHEEL, "42\n"),
}


@pytest.mark.parametrize("name", PYTHON)
async def test_python(machine, name: str) -> None:
    if name == "pip" and (await machine.run("import pip", "python")).status:
        pytest.skip("this host's Python has no pip; Debian: apt-get install python3-pip")
    code, expected = PYTHON[name]
    if "__main__" not in code and "multiprocessing as" in code:
        first, rest = code.split("\n", 1)
        body = "\n".join("    " + line for line in rest.splitlines())
        code = f"{first}\nif __name__ == '__main__':\n{body}"
    assert await machine.text(code, "python", timeout_ms=60_000) == expected


async def test_numpy(machine) -> None:
    if (await machine.run("import numpy", "python")).status:
        pytest.skip("this host's Python has no numpy")
    code = "import numpy as n; a = n.ones((400, 400)); print(int((a @ a).sum()))"
    assert await machine.text(code, "python") == "64000000\n"


SHELL = {
    "tar": (
        "mkdir t && echo x > t/f && tar czf t.tgz t && rm -r t && tar xzf t.tgz && cat t/f",
        "x\n",
    ),
    "git": (
        "mkdir g && cd g && git init -q . && echo x > f && git add f && git -c user.name=a"
        " -c user.email=a@example.com commit -qm one && git gc -q && git log --format=%s",
        "one\n",
    ),
    "sqlite3": (
        "sqlite3 s.db 'create table t (x); insert into t values (7); select * from t'",
        "7\n",
    ),
    "gcc": (
        "echo 'int puts(const char*); int main(void) { puts(\"c\"); }' > c.c && gcc c.c && ./a.out",
        "c\n",
    ),
    "perl": ("perl -e 'my $p = fork; if (!$p) { exit 3 } waitpid $p, 0; print $? >> 8'", "3"),
    "make": ("printf 'all: a b\\na b:\\n\\t@echo made\\n' > Makefile && make -j2", "made\nmade\n"),
    "flock": ("flock l echo locked", "locked\n"),
    "timeout": ("timeout 0.1 sleep 5; echo $?", "124\n"),
}


@pytest.mark.parametrize("name", SHELL)
async def test_from_a_shell(machine, name: str) -> None:
    if shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip(f"this host has no {name}")
    script = f"rm -rf ~/{name} && mkdir ~/{name} && cd ~/{name}\n"
    assert await machine.text(script + SHELL[name][0], timeout_ms=60_000) == SHELL[name][1]


async def test_node(machine) -> None:
    if "javascript" not in machine.image.toolchains:
        pytest.skip("this host has no Node.js")
    code = (
        "const {Worker} = require('worker_threads'), fs = require('fs/promises');\n"
        "const {execSync} = require('child_process'), http = require('http');\n"
        "new Worker('require(\"worker_threads\").parentPort.postMessage(1)', {eval: true})\n"
        "  .on('message', async () => {\n"
        "    await fs.writeFile('n.txt', 'x'); const text = await fs.readFile('n.txt', 'utf8');\n"
        "    const server = http.createServer((_, r) => r.end(execSync('echo y')));\n"
        "    server.listen(0, () =>\n"
        "      http.get({port: server.address().port}, r => r.on('data', d => {\n"
        "        console.log(text + d.toString().trim()); server.close(); process.exit(0); })));\n"
        "  });"
    )
    assert await machine.text(code, "javascript", timeout_ms=60_000) == "xy\n"


async def test_rust(machine) -> None:
    if "rust" not in machine.image.toolchains:
        pytest.skip("this host has no rustc")
    code = (
        "use std::{process::Command, thread};\n"
        "fn main() {\n"
        "    let threads: Vec<_> = (0..4).map(|n| thread::spawn(move || n)).collect();\n"
        "    let sum: i32 = threads.into_iter().map(|t| t.join().unwrap()).sum();\n"
        '    let out = Command::new("echo").arg("x").output().unwrap();\n'
        '    println!("{} {}", sum, String::from_utf8_lossy(&out.stdout).trim());\n'
        "}"
    )
    assert await machine.text(code, "rust", timeout_ms=120_000) == "6 x\n"


@pytest.mark.parametrize(
    ("name", "command"), [("strace", "strace true"), ("gdb", "gdb -q -batch -ex run /bin/true")]
)
async def test_debuggers_say_that_it_is_not_permitted(machine, name: str, command: str) -> None:
    if shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip(f"this host has no {name}")
    result = await machine.run(command, timeout_ms=60_000)
    assert b"Operation not permitted" in result.stdout + result.stderr
