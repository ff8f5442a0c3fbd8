"""The command line, as a user types it."""

import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from support import host
from support.server import Server, clean_environment, command
from support.typed import TYPED


def mulligan(data_dir: Path, *arguments: str, stdin: str = "", **env: str):
    return subprocess.run(
        [TYPED.directory / "mulligan", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir), **env),
        check=False,
    )


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text


def test_run_and_what_it_leaves(data_dir: Path) -> None:
    done = mulligan(data_dir, "run", "-c", "open('x', 'w').write('kept'); print('hi')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")
    assert mulligan(data_dir, "run", "-l", "bash", "-c", "cat x").stdout == "kept"
    listed = json.loads(mulligan(data_dir, "vm", "ls", "--json").stdout)
    assert [(vm["agent_id"], vm["status"]) for vm in listed] == [("cli", "stopped")]
    vm_id = listed[0]["id"]
    assert vm_id in mulligan(data_dir, "vm", "ls").stdout
    assert json.loads(mulligan(data_dir, "vm", "show", vm_id).stdout)["id"] == vm_id
    assert mulligan(data_dir, "vm", "rm", vm_id).returncode == 0
    assert mulligan(data_dir, "vm", "ls").stdout == "no VMs\n"
    again = mulligan(data_dir, "vm", "rm", vm_id)
    assert one_line(again.stderr) == (
        f"error: VM not available: {vm_id} (mulligan vm ls shows those there are)\n"
    )


def test_run_takes_files_stdin_environment_and_directory(data_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "a.sh"
    script.write_text("echo $A; pwd; cat")
    done = mulligan(
        data_dir, "run", str(script), "-e", "A=b", "--cwd", "/tmp", "--stdin", "-", stdin="in"
    )
    assert done.stdout == "b\n/tmp\nin"
    assert mulligan(data_dir, "run", "-", stdin="print(5)").stdout == "5\n"


def test_exit_codes_and_streams(data_dir: Path) -> None:
    done = mulligan(data_dir, "run", "-c", "import sys; print('e', file=sys.stderr); sys.exit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "e\n")
    done = mulligan(data_dir, "run", "--timeout", "1", "-c", "while True: pass")
    assert (done.returncode, done.stderr) == (124, "Execution timeout after 1000ms\n")
    done = mulligan(data_dir, "run", "--json", "-c", "print(1)")
    assert json.loads(done.stdout)["stdout"] == "1\n"


BAD = {
    "unknown language": (("run", "-l", "cobol", "-c", "1"), "Language not supported: cobol"),
    "empty code": (("run", "-c", ""), "code is empty"),
    "no code": (("run",), "give either a file (- for stdin) or -c CODE"),
    "missing file": (("run", "/no/such.py"), "cannot read /no/such.py"),
    "unknown ending": (("run", "x.unknown"), "cannot tell the language"),
    "negative timeout": (("run", "--timeout", "-1", "-c", "1"), "--timeout must be positive"),
    "relative directory": (("run", "--cwd", "x", "-c", "1"), "working_dir must be an absolute"),
    "missing directory": (("run", "--cwd", "/no/such", "-c", "1"), "working_dir '/no/such'"),
    "nobody's VM": (("run", "--vm", "vm-1", "-c", "1"), "VM not available: vm-1"),
    "bad environment": (("run", "-e", "x", "-c", "1"), "--env takes NAME=VALUE"),
    "no server there": (("run", "--server", "http://127.0.0.1:9", "-c", "1"), "cannot reach"),
    "foreign address": (("serve", "--host", "0.0.0.0"), "refusing to listen on 0.0.0.0"),
    "endless timeout": (("run", "--timeout", "9" * 30, "-c", "1"), "timeout_seconds: Input should"),
    "endless processes": (("vm", "create", "--processes", "9" * 30), "max_processes: Input should"),
    "unknown type": (("vm", "create", "--type", "x"), "vm_type 'x' is not defined"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(data_dir: Path, name: str) -> None:
    arguments, text = BAD[name]
    done = mulligan(data_dir, *arguments)
    assert done.returncode == 125
    assert text in one_line(done.stderr)
    assert done.stdout == ""


def test_a_port_that_is_taken(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = mulligan(data_dir, "serve", "--port", str(port))
    assert done.returncode == 125
    assert f"cannot listen on 127.0.0.1:{port}" in one_line(done.stderr)


def test_a_data_directory_that_cannot_be_made(data_dir: Path) -> None:
    blocked = data_dir / "file"
    blocked.write_text("")
    for arguments in (("run", "-c", "1"), ("serve", "--port", "0"), ("vm", "ls")):
        done = mulligan(blocked / "data", *arguments)
        assert done.returncode == 125
        assert "is not writable" in one_line(done.stderr)


@pytest.mark.skipif(os.geteuid() != 0, reason="only a root server runs VMs as another user")
def test_a_data_directory_vms_cannot_reach(data_dir: Path) -> None:
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    done = mulligan(closed / "data", "run", "-c", "1")
    assert f"{closed} is closed to it" in one_line(done.stderr)


def test_a_setting_that_is_wrong(data_dir: Path) -> None:
    done = mulligan(data_dir, "run", "-c", "1", MULLIGAN_PORT="many")
    assert "setting port" in one_line(done.stderr)


def test_a_settings_file_that_is_no_toml(data_dir: Path) -> None:
    path = data_dir / "bad.toml"
    path.write_text("port = [")
    done = mulligan(data_dir, "run", "-c", "1", MULLIGAN_CONFIG=str(path))
    assert done.returncode == 125
    assert "bad.toml" in one_line(done.stderr)


def test_user_namespaces_that_are_not_to_be_had(data_dir: Path) -> None:
    """bubblewrap itself, where no further user namespace may be made, stands for such a host."""
    from mulligan.drivers.bubblewrap import preflight

    bwrap = str(preflight.find_bwrap())
    walls = ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    inside = [bwrap, *walls, "--dev-bind", "/", "/", "--"]
    done = subprocess.run(
        [*inside, *command("run", "--data-dir", str(data_dir), "-c", "print(1)")],
        capture_output=True,
        text=True,
        timeout=100,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 125, done.stdout
    assert "Configuration error" in one_line(done.stderr)
    assert done.stdout == ""
    assert "max_user_namespaces" in done.stderr or "bubblewrap" in done.stderr
    checked = subprocess.run(
        [*inside, *command("doctor", "--data-dir", str(data_dir))],
        capture_output=True,
        text=True,
        timeout=100,
        env=clean_environment(),
        check=False,
    )
    assert checked.returncode == 1
    assert "FAIL namespaces" in checked.stdout


def test_an_interrupt_cancels_the_execution(data_dir: Path) -> None:
    process = subprocess.Popen(
        command("run", "-l", "bash", "-c", "echo started; (setsid sleep 300 &); sleep 300"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir)),
        # The tests may themselves run in the background, where an interrupt is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    everything = host.descendants(process.pid)
    assert everything
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in one_line(stderr)
    assert host.wait_until(lambda: not host.alive(everything), 2)


def interruptible(data_dir: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir)),
        # The tests may themselves run in the background, where an interrupt is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def last_outcome(data_dir: Path) -> str:
    return json.loads(mulligan(data_dir, "history", "--json").stdout)["entries"][0]["outcome"]


def programs(server: Server, idle: set[int]) -> list[bytes]:
    """What runs in a server's VMs that did not before, but for zygotes and their spare children."""
    now = host.alive(host.descendants(server.pid) - idle)
    lines = [host.command_line(pid) for pid in now]
    return [line for line in lines if line and b"/run/mulligan/main.py" not in line]


def test_a_server_streams_and_an_interrupt_cancels_there() -> None:
    with host.data_directory() as path, Server(path) as server:
        mulligan(path, "run", "-c", "1")
        idle = host.descendants(server.pid)
        code = "echo e >&2; sleep 0.5; echo started; (setsid sleep 300 &); sleep 300"
        process = interruptible(path, "run", "-l", "bash", "-c", code)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"  # while it runs
        assert host.wait_until(lambda: programs(server, idle))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130
        assert stderr == "e\ninterrupted: the execution was cancelled\n"
        assert last_outcome(path) == "cancelled"
        assert host.wait_until(lambda: not programs(server, idle)), programs(server, idle)
        process = interruptible(path, "run", "--json", "-l", "bash", "-c", "touch begun; sleep 300")
        begun = ("run", "-l", "bash", "-c", "test -e begun")
        assert host.wait_until(lambda: mulligan(path, *begun).returncode == 0, 60)
        process.kill()  # it cannot say anything any more, and its execution ends all the same
        process.communicate(timeout=30)
        assert host.wait_until(lambda: not programs(server, idle), 60), programs(server, idle)


def test_commands_use_the_server_that_has_the_directory() -> None:
    with host.data_directory() as path, Server(path):
        assert mulligan(path, "run", "-c", "print(1)").stdout == "1\n"
        assert json.loads(mulligan(path, "vm", "ls", "--json").stdout)[0]["status"] == "ready"
        second = mulligan(path, "serve", "--port", "0")
        assert second.returncode == 125
        assert "is in use by process" in one_line(second.stderr)


def test_two_commands_take_turns(data_dir: Path) -> None:
    env = clean_environment(MULLIGAN_DATA_DIR=str(data_dir))
    code = "import time; time.sleep(0.5); print('done')"
    processes = [
        subprocess.Popen(command("run", "-c", code), stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(3)
    ]
    for process in processes:
        assert process.communicate(timeout=60)[0] == "done\n"


def test_output_to_a_terminal_is_escaped(data_dir: Path) -> None:
    import pty

    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command("run", "-l", "bash", "-c", r"printf 'a\033]0;title\007b\n'"),
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir), TERM="xterm"),
    )
    process.wait(60)
    os.close(follower)
    shown = os.read(leader, 4096)
    os.close(leader)
    assert shown == b"a\\x1b]0;title\\x07b\r\n"


def test_doctor_is_content_here(data_dir: Path) -> None:
    done = mulligan(data_dir, "doctor")
    assert done.returncode == 0, done.stdout
    assert "ok   a VM: booted by bubblewrap and ran Python" in done.stdout
    assert "ok   system calls: " in done.stdout
    assert "ok   rights of programs: " in done.stdout
    findings = json.loads(mulligan(data_dir, "doctor", "--json").stdout)
    assert all(finding["state"] != "fail" for finding in findings)
    left = {path.name for path in data_dir.iterdir() if not path.name.startswith("bwrap-")}
    assert left <= {"lock", "stage"}


def test_help_names_every_command(data_dir: Path) -> None:
    done = mulligan(data_dir, "--help")
    for name in ("run", "vm", "serve", "doctor", "demo"):
        assert name in done.stdout
    assert mulligan(data_dir, "--version").stdout.startswith("mulligan ")


def test_the_data_directory_lets_nobody_list_it(data_dir: Path) -> None:
    mulligan(data_dir, "run", "-c", "1")
    for path in (data_dir, data_dir / "vms"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o711


def piped(data_dir: Path, code: str, reader: str, *options: str) -> subprocess.CompletedProcess:
    """``mulligan run … | reader``, as in a shell; the status is that of mulligan."""
    words = " ".join(command("run", "-l", "bash", *options, "-c"))
    return subprocess.run(
        ["bash", "-c", f'{words} "$1" | {reader}; exit ${{PIPESTATUS[0]}}', "-", code],
        capture_output=True,
        text=True,
        timeout=100,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir)),
        check=False,
    )


def test_a_reader_who_has_enough(data_dir: Path) -> None:
    done = piped(data_dir, "for i in $(seq 2000); do echo line; done; exit 3", "head -n 1")
    assert (done.returncode, done.stdout, done.stderr) == (3, "line\n", "")


def test_a_reader_who_takes_his_time(data_dir: Path) -> None:
    slow = "(sleep 7; wc -c)"
    done = piped(data_dir, "head -c 500000 /dev/zero", slow, "--timeout", "1")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "500000", "")


@pytest.mark.parametrize("target", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written(data_dir: Path, target: str) -> None:
    words = " ".join(command("run", "-c"))
    done = subprocess.run(
        ["bash", "-c", f"{words} 'print(1)' {target}"],
        capture_output=True,
        text=True,
        timeout=100,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir)),
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_an_interrupt_while_waiting_for_another_command(data_dir: Path) -> None:
    env = clean_environment(MULLIGAN_DATA_DIR=str(data_dir))
    first = subprocess.Popen(command("run", "-c", "import time; time.sleep(300)"), env=env)
    assert host.wait_until(lambda: len(host.descendants(first.pid)) >= 3, 60)
    second = subprocess.Popen(
        command("run", "-c", "1"),
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert second.stderr is not None
    assert second.stderr.readline().startswith("waiting for process")
    second.send_signal(signal.SIGINT)
    assert second.wait(10) == 130
    second.stderr.close()
    first.terminate()
    first.wait(30)
