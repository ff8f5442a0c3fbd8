"""Kernels through snapshots: memory that is kept, brought back, dropped or lost."""

import pytest

from mulligan.engine.vms import disk
from support.kernels import Kernel

pytestmark = pytest.mark.anyio


async def test_memory_comes_back_any_number_of_times(python) -> None:
    await python.run("import os, random; random.seed(1); x = [1]; os.chdir('/tmp')")
    kept = await python.memory("checkpoint", "a")
    assert (kept.memory, kept.notes) == ("kept", ())
    drawn = await python.value("x.append(2); random.random()")
    for _ in range(3):
        assert (await python.memory("revive", "a")).memory == "kept"
        assert await python.value("x, os.getcwd()") == "([1], '/tmp')"
        assert await python.value("random.random()") == drawn
        await python.run("x.append(3); os.chdir('/')")


async def test_memories_are_bounded_and_the_oldest_go_first(python) -> None:
    for n in range(20):
        await python.run(f"x = {n}")
        assert (await python.memory("checkpoint", f"m{n}")).memory == "kept"
    for n in (19, 4, 12, 5):
        assert (await python.memory("revive", f"m{n}")).memory == "kept"
        assert await python.value("x") == str(n)
    assert (await python.memory("revive", "m3")).memory == "lost"
    assert "rolled back" in (await python.run("1")).notes[0]
    assert (await python.memory("revive", "m18")).memory == "kept"
    assert await python.value("x") == "18"
    processes = await python.machine.text("cd /proc; echo [0-9]*", "bash")
    assert len(processes.split()) <= 1 + 1 + 1 + 16 + 1  # agent, zygote, kernel, images, bash


async def test_memory_comes_back_after_its_kernel_was_killed(python) -> None:
    await python.run("import os; x = 1")
    await python.memory("checkpoint", "a")
    assert (await python.run("os.kill(os.getpid(), 9)")).kernel_ended
    assert (await python.memory("revive", "a")).memory == "kept"
    assert await python.value("x") == "1"
    stubborn = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    assert (await python.run(stubborn, timeout_ms=300 * python.pace)).kernel_ended
    assert (await python.memory("revive", "a")).memory == "kept"
    assert await python.value("x") == "1"


async def test_a_revived_kernel_that_ends_at_once_leaves_its_memory(python) -> None:
    await python.run("import os; x = 1")
    await python.memory("checkpoint", "a")
    for _ in range(5):
        assert (await python.memory("revive", "a")).memory == "kept"
        assert (await python.run("os._exit(5)")).status == 5 << 8


async def test_a_dropped_memory_is_gone(python) -> None:
    await python.run("x = 1")
    await python.memory("checkpoint", "a")
    await python.memory("drop", "a")
    assert (await python.memory("revive", "a")).memory == "lost"


async def test_a_revived_kernel_can_be_kept_interrupted_and_print(python) -> None:
    await python.run("x = 1")
    await python.memory("checkpoint", "a")
    await python.memory("revive", "a")
    assert await python.text("print('seen')") == "seen\n"
    assert (await python.run("while True: pass", timeout_ms=300 * python.pace)).kernel_ended is None
    await python.run("x = 2")
    assert (await python.memory("checkpoint", "b")).memory == "kept"
    await python.memory("revive", "a")
    assert await python.value("x") == "1"
    await python.memory("revive", "b")
    assert await python.value("x, input()", stdin=b"read") == "(2, 'read')"
    assert (await python.run("import os; os._exit(3)")).status == 3 << 8


async def test_what_does_not_come_along_is_told(python) -> None:
    await python.run(
        "import mmap, socket, subprocess, threading\n"
        "stop = threading.Event(); t = threading.Thread(target=stop.wait, name='worker')\n"
        "t.start(); f = open('/tmp/kept', 'w'); s = socket.socket()\n"
        "import os; g = open('/tmp/gone', 'w'); os.unlink('/tmp/gone')\n"
        "p = subprocess.Popen(['sleep', '60']); m = mmap.mmap(-1, 4096)"
    )
    notes = " / ".join((await python.memory("checkpoint", "a")).notes)
    assert "/tmp/kept" not in notes  # it is opened again
    for text in ("'worker'", "/tmp/gone", "socket", "child process", "shared memory"):
        assert text in notes
    revived = await python.memory("revive", "a")
    assert set(revived.notes) == set(notes.split(" / "))
    assert await python.value("t.is_alive(), threading.active_count()") == "(False, 1)"


async def test_the_programs_own_children_are_all_it_meets(python) -> None:
    code = (
        "import os, signal\ncaught = []\nsignal.signal(signal.SIGCHLD, lambda *_: caught.append(1))"
    )
    await python.run(code)
    await python.memory("checkpoint", "a")
    wait = "try: os.wait()\nexcept ChildProcessError: caught.append('none')\ncaught"
    await python.run(wait)
    assert await python.value("caught") == "['none']"
    await python.memory("revive", "a")
    await python.run(wait)
    assert await python.value("caught") == "['none']"


async def test_a_directory_that_is_gone_is_told(python) -> None:
    await python.run("import os; os.makedirs('/tmp/gone', exist_ok=True); os.chdir('/tmp/gone')")
    await python.memory("checkpoint", "a")
    await python.run("os.rmdir('/tmp/gone')")
    assert any("/tmp/gone" in note for note in (await python.memory("revive", "a")).notes)
    assert await python.value("os.getcwd()") == "'/'"


async def test_a_rollback_cancels_what_runs(python) -> None:
    import asyncio

    await python.run("x = 1")
    await python.memory("checkpoint", "a")
    running = asyncio.create_task(python.run("import time; time.sleep(60)"))
    await asyncio.sleep(0.1)
    assert (await python.memory("checkpoint", "b")).memory == "not kept"
    assert (await python.memory("revive", "a")).memory == "kept"
    assert (await running).reason == "cancel"
    assert await python.value("x") == "1"


async def test_kernels_are_kept_together(machine) -> None:
    first, second, late = Kernel(machine), Kernel(machine), Kernel(machine)
    await first.run("x = 1")
    await second.run("x = 2")
    await first.memory("checkpoint", "a")
    await late.run("x = 3")
    await first.run("x = 9")
    answers = {each.name: each for each in await first.memories("revive", "a")}
    assert answers[first.name].memory == answers[second.name].memory == "kept"
    assert answers[late.name].memory == "lost"
    assert await first.value("x") == "1"
    assert await second.value("x") == "2"
    assert (await late.run("x")).status == 1 << 8
    await first.memory("end", "")


# bash


async def test_bash_keeps_its_state(bash) -> None:
    await bash.text(
        "x=1; a=(1 'b c'); declare -A m=([k]=v); f() { echo in f $1; }; alias hi='echo aliased'\n"
        "shopt -s extglob; set -o pipefail; cd /tmp; export E=exported"
    )
    assert (
        await bash.text(
            "echo $x \"${a[1]}\" ${m[k]}; f 2; hi; pwd; bash -c 'echo $E'; [[ -o pipefail ]] && echo on"
        )
        == "1 b c v\nin f 2\naliased\n/tmp\nexported\non\n"
    )
    result = await bash.run("nosuch\nfalse")
    assert result.status == 1 << 8
    assert b"main.sh: line 1: nosuch: command not found" in result.stderr
    assert await bash.text("read a; read b; echo $a+$b", stdin=b"1\n2\n") == "1+2\n"
    assert await bash.text("cat; break 2>/dev/null; echo on") == "on\n"
    assert (
        await bash.text('echo "$A"; pwd', env={"A": "q'\n"}, cwd="/usr", enter=True)
        == "q'\n\n/usr\n"
    )


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("exit 3", 3),
        ("g() { local l=1; { exit 4; } >/tmp/out; }; g", 4),
        ("set -e; false", 1),
        ("set -u; echo $nothing", 1),
    ],
)
async def test_bash_goes_on_after_exit(bash, ending: str, status: int) -> None:
    await bash.text("x=1; f() { echo f; }; IFS=:; shopt -s nullglob; cd /tmp; declare -r R=2")
    result = await bash.run(f"echo before; {ending}; echo after")
    assert (result.status, result.stdout, result.kernel_ended) == (status << 8, b"before\n", None)
    assert await bash.text("set +eu; echo $x $R; f; pwd; shopt -p nullglob") == (
        "1 2\nf\n/tmp\nshopt -s nullglob\n"
    )
    assert bool(result.notes) == ("g()" in ending)  # its local variables


@pytest.mark.parametrize("code", ["while :; do :; done", "sleep 60; echo on", "(sleep 60)"])
async def test_bash_is_interrupted(bash, code: str) -> None:
    await bash.text("x=1")
    result = await bash.run(code, timeout_ms=300 * bash.pace)
    assert (result.reason, result.stdout, result.kernel_ended) == ("timeout", b"", None)
    assert await bash.text("echo $x") == "1\n"


async def test_bash_that_ends_says_so(bash) -> None:
    assert "signal 9" in (await bash.run("x=1; kill -9 $$")).kernel_ended
    await bash.text(":")  # a fresh one is there: the time is the cell's
    result = await bash.run(
        "echo [$x]; trap '' INT; while :; do :; done", timeout_ms=300 * bash.pace
    )
    assert (result.stdout, "did not stop" in result.kernel_ended) == (b"[]\n", True)


async def test_bash_memory_comes_back_as_text(bash) -> None:
    await bash.text(
        "x='a  b'; a=([3]=$'q\\n\\'w' [7]=z); declare -A m=(['k 1']=v); declare -i n=4; export E=1\n"
        "declare -n ref=x; f() { echo f; }; alias hi='echo aliased'; shopt -s extglob; IFS=,\n"
        "g() { case $1 in @(a|b)) echo match ;; esac; }; set -- p 'q r'; set -o noglob; set -u\n"
        "trap 'echo usr' USR1; cd /tmp; umask 027; declare -r ro=1"
    )
    kept = await bash.memory("checkpoint", "a")
    assert (kept.memory, kept.notes) == ("kept", ())
    await bash.text("x=changed; unset -f f; cd /; unset a")
    for _ in range(2):
        assert (await bash.memory("revive", "a")).memory == "kept"
        assert await bash.text(
            'printf \'%s\\n\' "$x" "${a[3]}" "${!a[*]}" "${m[k 1]}" "$ref" "$IFS" "$2" $PWD '
            '"$(umask)" $- $ro; n+=1; echo $n; f; hi; g a; kill -USR1 $$; [[ -o noglob ]] && echo noglob'
        ) == (
            "a  b\nq\n'w\n3,7\nv\na  b\n,\nq r\n/tmp\n0027\nfhuBs\n1\n5\nf\naliased\nmatch\nusr\nnoglob\n"
        )


async def test_bash_tells_what_is_not_kept(bash) -> None:
    await bash.text("sleep 60 & exec 7</etc/passwd")
    kept = await bash.memory("checkpoint", "a")
    assert kept.notes == (
        "1 background jobs do not come along",
        "1 open descriptors do not come along",
    )
    await bash.text("big=$(printf '%2000000s')")
    assert "larger than 1 MB" in (await bash.memory("checkpoint", "b")).notes[0]
    assert await bash.text("echo ${#big}") == "2000000\n"


# Node.js


async def test_node_keeps_its_state(node) -> None:
    assert (
        await node.value("const a = 1; let b = [2]; class C {}; const fs = require('fs'); a") == "1"
    )
    assert await node.value("const fs = require('fs'); b.push(a); ({ b, c: new C() })") == (
        "{ b: [ 2, 1 ], c: C {} }"
    )
    assert await node.value(
        "const v = await new Promise((done) => setTimeout(done, 5, 'w')); v"
    ) == ("'w'")
    assert await node.value("let q") is None
    assert await node.text("console.log(fs.readFileSync(0, 'utf8'))", stdin=b"read") == "read\n"
    assert await node.value("process.cwd(), process.env.A", env={"A": "1"}) == "'1'"


async def test_node_errors_show_the_cell(node) -> None:
    result = await node.run("function f() {\n  throw new Error('why');\n}\nf();")
    assert result.status == 1 << 8
    assert result.stderr.decode() == (
        "Error: why\n    at f (cell-1.js:2:9)\n    at cell-1.js:4:1\n"
    )
    assert "let q = ;\n        ^" in (await node.run("let q = ;")).stderr.decode()
    assert "require() is" in (await node.run("await import('fs')")).notes[0]


@pytest.mark.parametrize(
    "code", ["while (true) {}", "await new Promise((d) => setTimeout(d, 9e4))"]
)
async def test_node_is_interrupted(node, code: str) -> None:
    await node.run("let x = 1")
    result = await node.run(code, timeout_ms=400 * node.pace)
    assert (result.reason, result.kernel_ended) == ("timeout", None)
    assert await node.value("x") == "1"


async def test_node_that_ends_says_so_and_its_memory_is_not_kept(node) -> None:
    result = await node.run("let x = 1; process.exit(3)")
    assert (result.status, "exit status 3" in result.kernel_ended) == (3 << 8, True)
    assert await node.value("typeof x") == "'undefined'"
    assert (await node.memory("checkpoint", "a")).memory == "not kept"
    assert (await node.memory("revive", "a")).memory == "not kept"
    assert "rolled back" in (await node.run("1")).notes[0]


RUNNER = """
import array, gc, os, socket, time
runner, = (each for each in gc.get_objects() if type(each).__name__ == 'Kernel')
"""
HANDED_ON = """
def checkpoint(frozen):
    with socket.socket(socket.AF_UNIX) as to:
        to.connect('/tmp/handed-on')
        socket.send_fds(to, [b'.'], [frozen.fileno()])
    frozen.close()
runner._checkpoint = checkpoint
"""
STRANGER = """
import os, signal, socket, time
if os.fork(): os._exit(0)
os.setsid()
with socket.socket(socket.AF_UNIX) as listening:
    listening.bind('/tmp/handed-on'); listening.listen()
    open('/tmp/listens', 'w').close()
    _, (frozen,), _, _ = socket.recv_fds(listening.accept()[0], 1, 1)
socket.socket(fileno=frozen).send(b'.{"op":"frozen"}')
open('/tmp/spoke', 'w').write(str(os.getpid()))
time.sleep(60)
"""


async def test_only_a_process_of_the_kernel_is_taken_for_its_image(machine, python) -> None:
    """What is taken for one is left alone by a rollback."""
    vm = machine.vm
    await python.run(RUNNER + HANDED_ON)
    await machine.run(STRANGER, "python")
    await machine.text("until [ -e /tmp/listens ]; do sleep 0.01; done")
    assert (await python.memory("checkpoint", "a")).memory == "not kept"
    spoke = await machine.text("until [ -s /tmp/spoke ]; do sleep 0.01; done; cat /tmp/spoke")
    assert (await machine.run(f"kill -0 {spoke}")).status == 0
    async with vm.steady():
        await disk.restore(vm, vm.state.base)
    assert (await machine.run(f"kill -0 {spoke}")).status != 0


RUNS_WHEN_FROZEN = """
def wait(frozen, notes):
    with open('/dev/shm/image', 'w') as file: print(os.getpid(), file=file)
    frozen.send(b'.{"op":"frozen"}')
    while True:
        open('/dev/shm/beat', 'a').write('.')
        time.sleep(0.01)
runner._wait = wait
"""


async def test_an_image_that_was_set_going_stands_still_after_a_rollback(machine, python) -> None:
    vm = machine.vm
    await python.run(RUNNER + RUNS_WHEN_FROZEN)
    await python.memory("checkpoint", "a")
    going = (
        "read pid < /dev/shm/image; echo > /dev/shm/beat; kill -CONT $pid\n"
        "until [ $(stat -c %s /dev/shm/beat) -gt 3 ]; do sleep 0.01; done; echo $pid"
    )
    pid = (await machine.text(going)).strip()
    async with vm.steady():
        await disk.restore(vm, vm.state.base)
    assert "T (stopped)" in await machine.text(f"grep State: /proc/{pid}/status")
    await machine.text("rm /dev/shm/beat /dev/shm/image")
