"""What a program in a VM can see and do. Everything asked here is harmless without walls, too."""

import os
import secrets
from pathlib import Path

import pytest

pytestmark = pytest.mark.anyio

NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")


async def test_every_namespace_is_its_own(machine) -> None:
    if machine.driver.capabilities.own_kernel:
        pytest.skip("namespaces of the VM's own kernel have nothing to do with the host's")
    script = "for n in " + " ".join(NAMESPACES) + "; do readlink /proc/self/ns/$n; done"
    inside = (await machine.text(script)).split()
    outside = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in NAMESPACES]
    assert len(inside) == len(NAMESPACES)
    assert not set(inside) & set(outside)


async def test_programs_have_no_rights(machine) -> None:
    for language, code in (
        ("bash", "cat /proc/self/status"),
        ("python", "print(open('/proc/self/status').read())"),
    ):
        status = dict(
            line.split(":\t", 1)
            for line in (await machine.text(code, language)).splitlines()
            if ":\t" in line
        )
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0, (language, kind)
        assert status["NoNewPrivs"] == "1"
        assert status["Uid"].split() == ["1000"] * 4


async def test_programs_are_not_root_on_the_host(machine) -> None:
    """A file made inside belongs, outside, to the user VMs run as."""
    await machine.text("touch /workspace/mine")
    path = machine.vm.spec.disk / "0" / "upper" / "workspace" / "mine"
    assert path.stat().st_uid == machine.driver.disk_owner()[0] != 0 or os.geteuid() != 0


async def test_only_its_own_processes_are_there(machine) -> None:
    shown = await machine.text("ls /proc | grep '^[0-9]'")
    assert int(shown.split()[0]) == 1
    assert str(os.getpid()) not in shown.split() or os.getpid() < 1000
    assert len(shown.split()) < 20


async def test_there_is_no_way_out_by_network(machine) -> None:
    assert (await machine.text("tail -n +2 /proc/net/route")).strip() == ""
    devices = await machine.text("tail -n +3 /proc/net/dev | cut -d: -f1")
    assert devices.split() == ["lo"]


async def test_loopback_works_inside(machine) -> None:
    code = (
        "import socket, threading\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "c = socket.create_connection(s.getsockname())\n"
        "c.sendall(b'hi'); print(s.accept()[0].recv(2).decode())"
    )
    assert await machine.text(code, "python") == "hi\n"


async def test_the_host_environment_stays_outside(machine, monkeypatch) -> None:
    monkeypatch.setenv("MULLIGAN_TEST_SECRET", "do-not-tell")
    names = (await machine.text("env | cut -d= -f1")).split()
    known = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "PWD", "SHLVL", "_"}
    assert set(names) <= known
    assert "do-not-tell" not in await machine.text("cat /proc/*/environ 2>/dev/null || true")


@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", "/etc/ssh", "/root/.ssh", "/var/lib", "/var/run/docker.sock", "/boot"]
    + ["/sys/kernel", "/run/systemd", "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/kvm"],
)
async def test_the_host_is_not_there(machine, path: str) -> None:
    try:
        if not Path(path).exists():
            pytest.skip(f"this host has no {path}")
    except PermissionError:
        pass  # it may have it; not for this user to know
    result = await machine.run(f"ls {path}")
    assert result.status != 0


async def test_a_file_on_the_host_cannot_be_found(machine, tmp_path: Path) -> None:
    needle = secrets.token_hex(16)
    (tmp_path / needle).write_text(needle)
    found = await machine.text(
        f"find / -xdev -name '{needle}' 2>/dev/null | head; "
        f"cat {tmp_path}/{needle} 2>/dev/null; ls /home"
    )
    assert needle not in found
    assert found.split() == ["agent"]


@pytest.mark.parametrize("path", ["/usr", "/dev"])
async def test_the_host_tree_is_read_only(machine, path: str) -> None:
    """Asked of the mount table: permissions alone would refuse a write, too."""
    lines = (await machine.text("cat /proc/self/mountinfo")).splitlines()
    options = [line.split()[5] for line in lines if line.split()[4] == path]
    assert options
    assert all("ro" in option.split(",") for option in options)


@pytest.mark.parametrize("path", ["/tmp", "/var/tmp", "/workspace", "/home/agent", "/dev/shm"])
async def test_its_own_places_are_writable_and_private(machine, path: str) -> None:
    name = f"mulligan-{secrets.token_hex(8)}"
    assert await machine.text(f"echo x > {path}/{name}; cat {path}/{name}") == "x\n"
    assert not Path(path, name).exists()


async def test_devices_are_few(machine) -> None:
    devices = set((await machine.text("ls /dev")).split())
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm", "fd"}
    assert devices <= allowed | {"stdin", "stdout", "stderr", "core", "console", "mqueue"}


async def test_hostname_and_user_are_made_up(machine) -> None:
    assert (await machine.text("hostname; id -un; echo ~")).split() == [
        "mulligan",
        "agent",
        "/home/agent",
    ]


@pytest.mark.parametrize(
    "call",
    [
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.unshare(0x10000000)",  # CLONE_NEWUSER
        "libc.unshare(0x00020000)",  # CLONE_NEWNS
        "libc.chroot(b'/tmp')",
        "libc.sethostname(b'x', 1)",
        "libc.ptrace(16, 1, 0, 0)",  # PTRACE_ATTACH to the agent
        "libc.ptrace(16, 2, 0, 0)",  # and to the zygote
        "libc.setuid(0)",
        "libc.socket(40, 1, 0)",  # AF_VSOCK, which no network namespace confines
        "libc.socket(17, 3, 0)",  # AF_PACKET
        "libc.socket(38, 5, 0)",  # AF_ALG
        "libc.syscall(KEYCTL, 0, -3, 0)",
        "libc.syscall(425, 1, 0)",  # io_uring_setup
        "libc.syscall(BPF, 0, 0, 0)",
    ],
)
async def test_calls_that_would_change_the_walls_fail(machine, call: str) -> None:
    numbers = {"x86_64": (250, 321), "aarch64": (219, 280)}[os.uname().machine]
    code = (
        f"import ctypes, errno\nKEYCTL, BPF = {numbers}\n"
        f"libc = ctypes.CDLL(None, use_errno=True)\n"
        f"print({call}, errno.errorcode[ctypes.get_errno()])"
    )
    result, reason = (await machine.text(code, "python")).split()
    refused = {"EPERM", "EACCES", "ENOSPC", "EAFNOSUPPORT", "ENOSYS", "EINVAL"}
    assert (result, reason in refused) == ("-1", True), reason


@pytest.mark.parametrize("pid", [1, 2])
@pytest.mark.parametrize("entry", ["mem", "environ", "maps", "fd", "root", "cwd", "ns/mnt"])
async def test_agent_and_zygote_cannot_be_looked_into(machine, pid: int, entry: str) -> None:
    """The same look at the program itself works, so it is the wall that refuses."""
    code = (
        f"import os\nENTRY, PID = {entry!r}, {pid}\n"
        "def look(pid):\n"
        "    path = f'/proc/{pid}/{ENTRY}'\n"
        "    if ENTRY in ('root', 'cwd', 'ns/mnt'): return os.readlink(path)\n"
        "    return os.readlink(path + '/0') if ENTRY == 'fd' else open(path, 'rb').read(0)\n"
        "look(os.getpid())\n"
        "try:\n    look(PID)\nexcept PermissionError: print('refused')"
    )
    assert await machine.text(code, "python") == "refused\n"


async def test_the_agent_survives_every_signal_a_program_can_send(machine) -> None:
    code = (
        "import os\n"
        "for n in range(1, 65):\n"
        "    try:\n"
        "        os.kill(1, n)\n"
        "    except OSError as error:\n"
        "        print(n, error)\n"
        "print('sent')"
    )
    assert "sent" in await machine.text(code, "python")
    assert await machine.text("echo alive") == "alive\n"


async def test_killing_everything_leaves_a_usable_vm(machine) -> None:
    """kill(-1) reaches the zygote too; it is only ever sent where process 1 is the agent."""
    assert "mulligan.guest" in await machine.text("tr '\\0' ' ' < /proc/1/cmdline")
    await machine.run("import os\nassert os.getpid() < 5000\nos.kill(-1, 9)", "python")
    assert await machine.text("print('again')", "python") == "again\n"
    assert await machine.text("print('and at fork speed')", "python") == "and at fork speed\n"


async def test_nothing_is_told_of_the_hosts_keys(machine) -> None:
    """A kernel of the VM's own may not have such files at all."""
    script = "for f in keys key-users cmdline; do [ ! -e /proc/$f ] || cat /proc/$f; done"
    assert await machine.text(script) == ""
