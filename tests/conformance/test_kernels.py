"""Kernels: what lives between cells, how cells end, and what becomes of memory."""

import asyncio
import base64

import pytest

from support.kernels import Kernel

pytestmark = pytest.mark.anyio

# Python


async def test_python_keeps_its_state(python) -> None:
    assert (
        await python.value("import os, math\nx = 1\nos.chdir('/tmp'); os.environ['A'] = 'b'")
        is None
    )
    assert await python.value("x += 1\nx, math.floor(2.5), os.getcwd(), os.environ['A']") == (
        "(2, 2, '/tmp', 'b')"
    )
    assert await python.value("_[0]") == "2"
    assert await python.value("None") is None
    assert await python.value("__name__, __import__('__main__').x") == "('__main__', 2)"


async def test_python_prints_and_reads(python) -> None:
    result = await python.run("print('out'); import sys; print('err', file=sys.stderr); 7")
    assert (result.stdout, result.stderr, result.result) == (b"out\n", b"err\n", "7")
    assert await python.value("input(), input()", stdin=b"a\nb\nunread\n") == "('a', 'b')"
    assert b"EOFError" in (await python.run("input()")).stderr
    assert await python.value("input()", stdin=b"c") == "'c'"


async def test_python_tracebacks_show_the_cell_and_nothing_of_ours(python) -> None:
    await python.run("def f():\n    return 1 / 0")
    result = await python.run("f()")
    lines = result.stderr.decode().splitlines()
    assert result.status == 1 << 8
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == '  File "<cell 2>", line 1, in <module>'
    assert '  File "<cell 1>", line 2, in f' in lines
    assert "    return 1 / 0" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert sum(line.startswith("  File") for line in lines) == 2
    error = (await python.run("x = (1,\ny = 2")).stderr.decode()
    assert error.startswith('  File "<cell 3>", line 1')
    assert "SyntaxError" in error
    assert (
        "Broken repr"
        in (
            await python.run("class A:\n  def __repr__(self): raise ValueError('Broken repr')\nA()")
        ).stderr.decode()
    )


async def test_python_functions_of_cells_are_first_class(python) -> None:
    await python.run("def double(n):\n    return 2 * n\nclass P: pass")
    assert await python.value("import inspect; inspect.getsource(double)") == (
        r"'def double(n):\n    return 2 * n\n'"
    )
    assert await python.value("import pickle; type(pickle.loads(pickle.dumps(P()))) is P") == "True"
    assert (
        await python.value(
            "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n"
            "    r = pool.map(double, [1, 2])\nr"
        )
        == "[2, 4]"
    )
    assert await python.value("import asyncio\nawait asyncio.sleep(0, 'waited')") == "'waited'"


async def test_python_endings_that_are_not_its_end(python) -> None:
    await python.run("x = 5")
    assert (await python.run("import sys; sys.exit(7)")).status == 7 << 8
    result = await python.run("sys.exit('why')")
    assert (result.status, result.stderr) == (1 << 8, b"why\n")
    result = await python.run("while True: pass", timeout_ms=300 * python.pace)
    assert (result.reason, result.kernel_ended) == ("timeout", None)
    assert b"KeyboardInterrupt" in result.stderr
    await python.run("import os\nif os.fork() == 0: y = 1\nelse: os.wait()")
    assert await python.value("x") == "5"


@pytest.mark.parametrize(
    ("code", "status"),
    [("os._exit(3)", 3 << 8), ("os.kill(os.getpid(), 9)", 9), ("os.kill(os.getpid(), 11)", 11)],
)
async def test_python_that_ends_says_so_and_starts_afresh(python, code: str, status: int) -> None:
    result = await python.run(f"import os; x = 1; print('last words', flush=True); {code}")
    assert (result.reason, result.status, result.stdout) == ("exit", status, b"last words\n")
    assert "the kernel ended" in result.kernel_ended
    assert "starts a fresh one" in result.kernel_ended
    assert await python.value("'x' in dir()") == "False"


async def test_python_that_ends_between_cells_says_so_in_the_next(python) -> None:
    await python.run(
        "import os, threading\ngo = threading.Event()\n"
        "threading.Thread(target=lambda: (go.wait(), os._exit(4))).start()\nx = 1"
    )
    await python.run("threading.Timer(0.05, go.set).start()")
    for _ in range(200):
        result = await python.run("'x' in dir()")
        if result.result == "False" or result.kernel_ended:
            break
        await asyncio.sleep(0.01)
    assert any("started a fresh one" in note for note in result.notes) or result.kernel_ended


async def test_a_cell_that_will_not_stop_ends_its_kernel(python) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    await python.run("")  # so that it is there: the time is the cell's
    result = await python.run(code, timeout_ms=300 * python.pace)
    assert result.reason == "timeout"
    assert f"did not stop within {python.pace} s of an interrupt" in result.kernel_ended
    assert await python.value("1 + 1") == "2"


async def test_python_output_is_bounded(python) -> None:
    result = await python.run("print('x' * 10_000_000)\n'y' * 10_000_000", output_limit=1000)
    assert (len(result.stdout), result.stdout_bytes, result.truncated) == (1000, 10_000_001, True)
    assert len(result.result.encode()) <= 64 * 1024
    assert "more characters" in result.result


async def test_output_between_cells_comes_with_the_next(python) -> None:
    await python.run(
        "import threading\ngo, done = threading.Event(), threading.Event()\n"
        "def work():\n  go.wait(); print('from a thread', flush=True); done.set()\n"
        "t = threading.Thread(target=work); t.start()"
    )
    assert await python.text("go.set(); t.join()") == "from a thread\n"


FAKE_PYPLOT = """
import sys, types
pyplot = types.ModuleType("matplotlib.pyplot")
figures = list(range(10))
class Figure:
    def savefig(self, file, **_): file.write(b"\\x89PNG picture")
pyplot.get_fignums = lambda: figures
pyplot.figure = lambda number: Figure()
pyplot.close = lambda what: figures.clear()
sys.modules["matplotlib.pyplot"] = pyplot
"""


async def test_figures_come_back_and_are_closed(python) -> None:
    result = await python.run(FAKE_PYPLOT)
    assert [mime for mime, _ in result.results] == ["image/png"] * 8
    assert base64.b64decode(result.results[0][1]) == b"\x89PNG picture"
    assert "10 figures, of which 8 come back" in result.notes
    assert (await python.run("1")).results == ()


async def test_figures_of_matplotlib(python) -> None:
    if (await python.run("import matplotlib.pyplot as plt")).status:
        pytest.skip("this host's Python has no matplotlib")
    result = await python.run("plt.plot([1, 2]); plt.show()")
    assert base64.b64decode(result.results[0][1]).startswith(b"\x89PNG")
    assert result.stderr == b""


async def test_rich_values_come_back(python) -> None:
    result = await python.run("class T:\n  def _repr_html_(self): return '<b>é</b>'\nT()")
    assert result.results == (("text/html", "<b>é</b>"),)
    big = await python.run("class T:\n  def _repr_html_(self): return 'x' * 5_000_000\nT()")
    assert big.results == ()
    assert "too large" in big.notes[0]


async def test_settings_of_a_cell(python) -> None:
    code = "import os; os.getcwd(), os.environ.get('A')"
    assert await python.value(code, env={"A": "1"}, cwd="/tmp") == "('/tmp', '1')"
    assert await python.value(code, cwd="/usr") == "('/tmp', '1')"
    assert await python.value(code, env={"A": "a\nb=c"}, cwd="/usr", enter=True) == (
        r"('/usr', 'a\nb=c')"
    )
    result = await python.run(code, cwd="/nowhere", enter=True)
    assert (result.status, result.result) == (1 << 8, None)
    assert b"/nowhere" in result.stderr
    fresh = await Kernel(python.machine).run("1", cwd="/nowhere")
    assert (fresh.reason, "/nowhere" in fresh.message) == ("setup", True)


# The control channel


GARBAGE = [
    "b'garbage'",
    "b'.{}'",
    "b'.[1]'",
    'b\'.{"op":"done"}\'',
    'b\'.{"op":"done","status":-1}\'',
    'b\'.{"op":"done","status":0,"results":[[1,2]]}\'',
    'b\'.{"op":"done","status":0,"notes":5}\'',
    'b\'.{"op":"state"}\'',
    "b'.' + b'[' * 50000",
    "b'+' * 1000",
]


@pytest.mark.parametrize("message", GARBAGE)
async def test_garbage_on_the_control_channel_ends_its_kernel_alone(python, message: str) -> None:
    other = Kernel(python.machine)
    await other.run("x = 1")
    times = 4000 if "+" in message else 1
    find = (
        "import os, socket, time\ns = socket.socket(fileno=os.dup(60))\n"
        f"for _ in range({times}): s.send({message})\ntime.sleep(10)"
    )
    result = await python.run(find)
    assert result.reason == "exit"
    assert "the kernel was ended" in result.kernel_ended
    assert await python.value("1") == "1"
    assert await other.value("x") == "1"


async def test_another_process_cannot_speak_for_a_kernel(python) -> None:
    code = (
        "import os, socket\npid = os.fork()\nif pid == 0:\n"
        '  socket.socket(fileno=os.dup(60)).send(b\'.{"op":"done","status":0}\')\n'
        "  os._exit(0)\nimport time; time.sleep(10)"
    )
    assert "another process spoke" in (await python.run(code)).kernel_ended


async def test_a_closed_control_channel_ends_its_kernel(python) -> None:
    result = await python.run("import os, time; os.close(60); time.sleep(10)")
    assert "closed its control channel" in result.kernel_ended
    assert await python.value("1") == "1"


# Many cells, many kernels


async def test_cells_queue_in_order_and_kernels_run_beside_each_other(python) -> None:
    other = Kernel(python.machine)
    await python.run("seen = []; import os, time")
    blocked = "open('/tmp/gate').read()"
    await python.text("os.path.exists('/tmp/gate') or os.mkfifo('/tmp/gate')")
    first = asyncio.create_task(python.run(blocked))
    rest = [asyncio.create_task(python.run(f"seen.append({n})")) for n in range(10)]
    await other.run("open('/tmp/gate', 'w').write('go')")
    await asyncio.gather(first, *rest)
    assert await python.value("seen") == str(list(range(10)))


async def test_a_cell_waits_for_its_turn_on_its_own_time(python) -> None:
    await python.run("seen = []; import time")
    first = asyncio.create_task(python.run("time.sleep(1); seen.append('first')"))
    await asyncio.sleep(0)
    late = asyncio.create_task(python.run("seen.append('late')", timeout_ms=500))
    cancelled = asyncio.create_task(python.run("seen.append('cancelled')"))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert (await first).reason == (await late).reason == "exit"
    assert await python.value("seen") == "['first', 'late']"


async def test_a_cancelled_cell_leaves_its_kernel(python) -> None:
    started = asyncio.Event()
    await python.run("x = 1")
    program = python.program("print('on', flush=True)\nwhile True: pass")
    task = asyncio.create_task(python.machine.vm.run(program, lambda *_: started.set()))
    await asyncio.wait_for(started.wait(), 10 * python.pace)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await python.value("x") == "1"


async def test_a_kernel_has_one_language(python) -> None:
    await python.run("1")
    stranger = Kernel(python.machine, "bash")
    stranger.name = python.name
    result = await stranger.run("echo")
    assert (result.reason, "runs python" in result.message) == ("setup", True)


async def test_ended_kernels_leave_nothing(machine) -> None:
    async def count() -> int:
        return int(await machine.text("set -- /proc/[0-9]*; echo $#"))

    before = await count()
    kernels = [Kernel(machine, language) for language in ("python", "bash")]
    for kernel in kernels:
        await kernel.run("sleep 100 &" if kernel.language == "bash" else "x = 1")
        await kernel.memory("checkpoint", "a")
    assert await count() > before
    await kernels[0].memory("end", "")
    for _ in range(100):
        if await count() <= before:
            return
    assert await count() <= before
