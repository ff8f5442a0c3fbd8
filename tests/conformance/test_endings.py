"""How executions end, and that they end whole."""

import asyncio
import os

import pytest

from support import host
from support.profiles import SEEN

pytestmark = pytest.mark.anyio

HIDERS = {
    "plain": "sleep 300",
    "ignores signals": "trap '' TERM HUP INT; while :; do sleep 1; done",
    "background": "sleep 300 & sleep 301 & wait",
    "double fork": "( (sleep 300 &) & ); sleep 301",
    "new session": "setsid sleep 300 & sleep 301",
    "nohup": "nohup sleep 300 >/dev/null 2>&1 & sleep 301",
    "stopped": "kill -STOP $$",
    "no first thread": "exec python3 -c '"
    "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(300,)).start(); "
    "ctypes.CDLL(None).syscall(60, 0)'",
    "deep": 'f() { [ $1 = 0 ] && exec sleep 300; bash -c "$(declare -f f); f $(($1-1))"; }; f 8',
}


async def running(machine, expected: int | None = None) -> int:
    """How many processes the VM has, with the agent, the zygote and the counting one.

    What was killed runs no more, but the kernel takes its time to forget it on a busy machine: with
    ``expected`` the count is taken again while it is higher.
    """
    for _ in range(100):
        count = int(await machine.text("set -- /proc/[0-9]*; echo $#"))
        if expected is None or count <= expected:
            break
        await asyncio.sleep(0.02)
    return count


@pytest.mark.parametrize("name", HIDERS)
async def test_a_timeout_ends_the_whole_tree(machine, name: str) -> None:
    before = await running(machine)
    result = await machine.run(HIDERS[name], timeout_ms=400 * machine.pace)
    assert result.reason == "timeout"
    assert await running(machine, before) == before


@pytest.mark.parametrize("name", HIDERS)
async def test_a_cancel_ends_the_whole_tree(machine, name: str) -> None:
    before = await running(machine)
    started = asyncio.Event()
    task = asyncio.create_task(
        machine.run("echo started\n" + HIDERS[name], on_output=lambda *_: started.set())
    )
    await asyncio.wait_for(started.wait(), 10 * machine.pace)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await running(machine, before) == before


async def test_a_cancel_before_the_start_is_kept(machine) -> None:
    before = await running(machine)
    for _ in range(20):
        task = asyncio.create_task(machine.run("sleep 300"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await running(machine, before) == before


@pytest.mark.parametrize(
    ("language", "code"), [("bash", "sleep 300"), ("python", "import time\ntime.sleep(300)")]
)
async def test_a_cancel_at_any_moment_costs_one_execution(machine, language, code) -> None:
    """Also while the program is only about to become one: the VM and all else in it go on."""
    await machine.run("true")
    connection = machine.vm.connection
    bystander = asyncio.create_task(machine.run("sleep 3; echo well"))
    for number in range(60):
        task = asyncio.create_task(machine.run(code, language))
        await asyncio.sleep(number / 4000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await bystander).stdout == b"well\n"
    assert machine.vm.connection is connection


async def test_python_is_ended_too(machine) -> None:
    code = (
        "import os, signal, time\n"
        "for s in (signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n    os.setsid()\n"
        "time.sleep(300)"
    )
    before = await running(machine)
    assert (await machine.run(code, "python", timeout_ms=500 * machine.pace)).reason == "timeout"
    assert await running(machine, before) == before


async def test_what_was_detached_on_purpose_stays(machine) -> None:
    before = await running(machine)
    result = await machine.run("nohup sleep 300 >/dev/null 2>&1 & setsid sleep 301 & echo on")
    assert (result.stdout, result.background) == (b"on\n", 2)
    assert await running(machine, before + 2) == before + 2
    await machine.text("pkill -x sleep || kill $(pidof sleep)")
    assert await running(machine, before) == before


async def test_a_background_program_can_go_on_writing(machine) -> None:
    code = "nohup bash -c 'for i in 1 2 3 4 5 6; do echo tick; sleep 0.1; done; echo ok > t' & "
    await machine.run("rm -f t\n" + code)
    for _ in range(100):
        if (await machine.run("cat t")).stdout == b"ok\n":
            return
        await asyncio.sleep(0.05)
    pytest.fail("it was ended, or its writes failed")


async def test_what_was_not_detached_ends_with_its_program(machine) -> None:
    before = await running(machine)
    result = await machine.run("sleep 300 & echo on")
    assert (result.stdout, result.background) == (b"on\n", 0)
    assert await running(machine, before) == before


async def test_a_late_child_gets_a_moment(machine) -> None:
    assert await machine.text("(sleep 0.1; echo late) & echo early") == "early\nlate\n"


async def test_a_child_whose_first_thread_ended_is_found(machine) -> None:
    code = (
        "import ctypes, os, threading, time\n"
        "if os.fork() == 0:\n"
        "    threading.Thread(target=time.sleep, args=(300,)).start()\n"
        "    ctypes.CDLL(None).syscall(60, 0)\n"
        "time.sleep(0.2)\n"
    )
    before = await running(machine)
    assert (await machine.run(code, "python")).background == 0
    assert await running(machine, before) <= before


async def test_a_zygote_that_is_stopped_goes_on(machine) -> None:
    assert await machine.text("print(1)", "python") == "1\n"
    machine.needs(SEEN)
    machine.stop_zygote()
    bystander = asyncio.create_task(machine.run("sleep 2; echo well"))
    assert await machine.text("print(1)", "python") == "1\n"
    assert (await bystander).stdout == b"well\n"
    assert await machine.text("print('again')", "python") == "again\n"


async def test_a_command_line_that_is_too_long_is_told(machine) -> None:
    result = await machine.run("echo x", env={"A": "x" * 200_000})
    assert result.reason == "setup"
    assert "too long" in result.message


async def test_more_executions_than_descriptors(machine) -> None:
    """Each is answered: by the program's end, or by the reason it could not start."""
    results = await asyncio.gather(
        *(machine.run("sleep 0.2; echo x", timeout_ms=90_000 * machine.pace) for _ in range(400))
    )
    assert {result.reason for result in results} <= {"exit", "setup"}
    assert sum(result.stdout == b"x\n" for result in results) > 100
    assert await machine.text("echo alive") == "alive\n"


async def test_a_waiting_compiler_holds_nothing_of_the_agents(machine) -> None:
    if "rust" not in machine.image.toolchains:
        pytest.skip("this host has no rust")
    machine.needs(SEEN)
    # Looked at from the host: it has the zygote's command line, and where there is Landlock
    # programs of other executions do not see its descriptors.
    compiling = asyncio.create_task(machine.run("fn main() {}", "rust", timeout_ms=60_000))
    seen: list[str] = []
    while not compiling.done():
        await asyncio.sleep(0.01)
        for pid in host.descendants(os.getpid()):
            compiler = b"main.py" in host.command_line(pid) and any(
                b"rustc" in host.command_line(child) for child in host.descendants(pid)
            )
            if compiler and host.number_inside(host.parent(pid)) != 1:
                seen += host.descriptors_of(pid)
    assert seen
    assert [each for each in seen if each.startswith(("socket:", "mnt:"))] == []
    assert (await compiling).status == 0


HOPPER = """
import os, time
os.setsid()
stop = time.monotonic() + 3.0
hops = 0
while time.monotonic() < stop and hops < 400:
    hops += 1
    if os.fork():
        os._exit(0)
    time.sleep(0.004)
open("/workspace/hopper-was-here", "w").write(str(hops))
"""


async def test_a_process_that_only_forks_and_exits_is_caught(machine) -> None:
    """At most 400 processes, one at a time; it would write its mark after two to three seconds."""
    await machine.text("rm -f /workspace/hopper-was-here")
    code = (
        f"import os, time\nif os.fork() == 0:\n    exec({HOPPER!r})\n    os._exit(0)\ntime.sleep(9)"
    )
    for _ in range(3):
        ended = await machine.run(code, "python", timeout_ms=700 * machine.pace)
        assert ended.reason == "timeout"
    await asyncio.sleep(3)
    assert (await machine.run("ls /workspace/hopper-was-here")).status != 0


async def test_ending_one_execution_leaves_the_others_as_they_were(machine) -> None:
    """Everything is stopped for a moment; who ran goes on, who was stopped stays so."""
    worker = asyncio.create_task(machine.run("for i in $(seq 40); do sleep 0.05; done; echo fine"))
    stopped = asyncio.create_task(machine.run("kill -STOP $$; echo woken", timeout_ms=2500))
    await asyncio.sleep(0.3)
    assert (await machine.run("sleep 300", timeout_ms=300)).reason == "timeout"
    assert (await worker).stdout == b"fine\n"
    result = await stopped
    assert (result.reason, result.stdout) == ("timeout", b"")


async def test_orphans_are_reaped(machine) -> None:
    await machine.run("for i in $(seq 50); do (sleep 0.01 &) ; done; sleep 0.2")
    zombies = await machine.text("grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l")
    assert int(zombies) == 0


async def test_signals_and_codes(machine) -> None:
    assert (await machine.run("exit 9")).status == 9 << 8
    assert (await machine.run("kill -SEGV $$")).status & 0x7F == 11
    assert (await machine.run("import os; os._exit(300)", "python")).status == (300 & 255) << 8


async def test_a_missing_working_directory_is_named(machine) -> None:
    for language in ("python", "bash"):
        result = await machine.run("1", language, cwd="/no/such")
        assert result.reason == "setup"
        assert "/no/such" in result.message


async def test_environment_and_directory_are_set(machine) -> None:
    await machine.run("mkdir -p /workspace/sub")
    for language, code in (
        ("bash", "echo $A; pwd"),
        ("python", "import os; print(os.environ['A']); print(os.getcwd())"),
    ):
        text = await machine.text(code, language, env={"A": "b c"}, cwd="/workspace/sub")
        assert text == "b c\n/workspace/sub\n"


async def test_variables_the_interpreter_reads_at_its_start_count(machine) -> None:
    code = "import sys; print(sys.flags.optimize, sys.flags.utf8_mode)"
    env = {"PYTHONOPTIMIZE": "1", "PYTHONUTF8": "1"}
    assert await machine.text(code, "python", env=env) == "1 1\n"


async def test_a_module_in_the_working_directory_can_be_imported(machine) -> None:
    await machine.run("echo 'answer = 42' > helper_of_mine.py")
    assert await machine.text("import helper_of_mine as h; print(h.answer)", "python") == "42\n"


async def test_executions_do_not_see_each_others_code(machine) -> None:
    sleeper = asyncio.create_task(machine.run("# secret text\nsleep 1"))
    await asyncio.sleep(0.2)
    shown = await machine.text("ls /run/mulligan; cat /run/mulligan/*")
    assert shown.startswith("main.sh\nls /run")
    assert "secret text" not in shown
    await sleeper


async def test_resources_are_told(machine) -> None:
    code = "x = bytearray(80_000_000)\nfor i in range(2_000_000): pass"
    result = await machine.run(code, "python")
    assert result.cpu_us > 10_000
    assert result.max_rss_kb > 80_000


@pytest.mark.parametrize(("then", "reason"), [("pass", "exit"), ("time.sleep(60)", "timeout")])
async def test_a_zygote_that_was_stopped_keeps_no_execution_from_its_end(
    machine, then: str, reason: str
) -> None:
    machine.needs(SEEN)
    before = await machine.text("readlink /proc/1/ns/pid; stat -c %Z /proc/1")
    code = f"import time; print('begun', flush=True); time.sleep(0.5); {then}"
    begun = asyncio.Event()
    program = asyncio.create_task(
        machine.run(code, "python", lambda *_: begun.set(), timeout_ms=1500)
    )
    await begun.wait()
    machine.stop_zygote()
    ended = await program
    assert (ended.reason, ended.stdout) == (reason, b"begun\n")
    assert await machine.text("print('on')", "python") == "on\n"
    assert await machine.text("readlink /proc/1/ns/pid; stat -c %Z /proc/1") == before
