"""Layers a program in a VM runs under, asked of the kernel. Everything asked here is harmless."""

import ctypes
import errno
import os
import subprocess
from pathlib import Path

import pytest

from mulligan.drivers.bubblewrap import arguments, preflight
from mulligan.guest.root import MASKED, READ_ONLY
from support import host
from support.profiles import HARD_LINKS, LANDLOCK, NOBODY

pytestmark = pytest.mark.anyio

ABI = ctypes.CDLL(None).syscall(444, None, 0, 1)  # the version of its ABI, or -1
CALLS = "import ctypes, errno, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
EACH = (
    "def tell(*found):\n"
    "    number = ctypes.get_errno() if found[0] == -1 else 0\n"
    "    ctypes.set_errno(0)\n"
    "    print(errno.errorcode.get(number, number))\n"
)
X86 = os.uname().machine == "x86_64"


async def told(machine, *expressions: str, language: str = "python") -> list[str]:
    """What each call is answered with: an error's name, or 0."""
    lines = "".join(f"tell({each})\n" for each in expressions)
    return (await machine.text(CALLS + EACH + lines, language)).split()


async def test_programs_have_a_filter_on_top_of_their_vms(machine) -> None:
    """Where the tests themselves run under some, those come on top."""
    if machine.driver.capabilities.own_kernel:  # it may not count them, but says there are some
        both = await machine.text("grep -h Seccomp: /proc/self/status /proc/1/status")
        assert both.split() == ["Seccomp:", "2"] * 2
        return
    outside = int("".join(host.status(os.getpid(), "Seccomp_filters")))
    script = "grep -h Seccomp_filters /proc/self/status /proc/1/status"
    python = f"import subprocess; subprocess.run({script!r}, shell=True)"
    for language, code in (("bash", script), ("python", python)):
        counts = (await machine.text(code, language)).split()[1::2]
        assert [int(count) - outside for count in counts] == [2, 1], language


async def test_new_namespaces_are_refused_by_every_call(machine) -> None:
    """By flags of clone, by unshare, and by clone3, which C libraries then do without."""
    found = await told(
        machine,
        "libc.unshare(0x10000000)",
        "libc.unshare(0x20000)",
        "libc.unshare(0x200)",
        "libc.setns(os.open('/proc/self/ns/mnt', 0), 0x20000)",
        "libc.setns(os.open('/proc/self/ns/user', 0), 0)",
        f"libc.syscall({56 if X86 else 220}, 0x10000011, 0, 0, 0, 0)",
        f"libc.syscall({56 if X86 else 220}, 0x20011, 0, 0, 0, 0)",
        "libc.syscall(435, None, 0)",
    )
    assert found == ["EPERM"] * 7 + ["ENOSYS"]


async def test_mounts_are_refused_by_every_call(machine) -> None:
    found = await told(
        machine,
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.umount2(b'/proc', 2)",
        "libc.syscall(428, -100, b'/', 1)",  # open_tree
        "libc.syscall(429, -1, b'', -100, b'/tmp', 4)",  # move_mount
        "libc.syscall(430, b'tmpfs', 0)",  # fsopen
        "libc.syscall(442, -100, b'/', 0, None, 0)",  # mount_setattr
        "libc.chroot(b'/tmp')",
        f"libc.syscall({155 if X86 else 41}, b'.', b'.')",  # pivot_root
    )
    assert found == ["EPERM"] * 8


async def test_doors_into_the_kernel_are_shut(machine) -> None:
    found = await told(
        machine,
        "libc.ptrace(0, 0, 0, 0)",
        "libc.process_vm_readv(os.getpid(), None, 0, None, 0, 0)",
        f"libc.syscall({298 if X86 else 241}, None, 0, -1, -1, 0)",  # perf_event_open
        f"libc.syscall({323 if X86 else 282}, 0)",  # userfaultfd
        f"libc.syscall({304 if X86 else 265}, -100, None, 0)",  # open_by_handle_at
        "libc.personality(0x40000)",
        "libc.ioctl(0, 0x5412, b' ')",  # TIOCSTI
        "libc.syscall(424, 0, 0, None, 0)",  # pidfd_send_signal
        "libc.syscall(425, 1, None)",  # io_uring_setup
        "libc.syscall(1000)",
        "libc.socket(2, 1, 262)",  # MPTCP
        "libc.socket(9, 5, 0)",  # AF_X25
        "libc.socketpair(30, 1, 0, None)",  # AF_TIPC
    )
    assert found == ["EPERM"] * 7 + ["ENOSYS"] * 3 + ["EPROTONOSUPPORT"] + ["EAFNOSUPPORT"] * 2


@pytest.mark.skipif(not X86, reason="only x86-64 has the x32 ABI")
async def test_the_x32_abi_is_not_there(machine) -> None:
    assert await told(machine, "libc.syscall(0x40000000 | 39)") == ["ENOSYS"]


@pytest.mark.parametrize("kernel", [False, True])
async def test_agent_and_zygote_are_not_acted_upon(machine, python, kernel: bool) -> None:
    """From an execution and from a kernel's cell. Every one of these works on oneself."""
    await machine.text("print('the zygote is there')", "python")
    code = CALLS + (
        "import resource\n"
        "own = os.getpid()\n"
        "zygote = int(next(n for n in os.listdir('/proc') if n.isdigit() and n != '1' and\n"
        "             open(f'/proc/{n}/stat').read().rpartition(')')[2].split()[1] == '1'\n"
        "             and b'main.py' in open(f'/proc/{n}/cmdline', 'rb').read()\n"
        "             and int(n) != own))\n"
        "def limit(pid): resource.prlimit(pid, resource.RLIMIT_NOFILE)\n"
        "def nice(pid): os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0))\n"
        "def affinity(pid): os.sched_setaffinity(pid, os.sched_getaffinity(0))\n"
        "def signalled(pid): os.kill(pid, 0)\n"
        "def opened(pid): os.close(os.pidfd_open(pid))\n"
        "failed = []\n"
        "for do in limit, nice, affinity, signalled, opened:\n"
        "    do(own)\n"
        "    for pid in 1, zygote:\n"
        "        try:\n"
        "            do(pid)\n"
        "            failed.append((do.__name__, pid))\n"
        "        except PermissionError: pass\n"
        "try:\n"
        "    os.kill(-1, 0)\n"
        "    failed.append('everybody')\n"
        "except PermissionError: pass\n"
        "print(failed)"
    )
    if kernel:
        assert (await python.run(code)).stdout == b"[]\n"
    else:
        assert await machine.text(code, "python") == "[]\n"


def needs_landlock(machine) -> None:
    machine.needs(LANDLOCK)
    if not machine.driver.capabilities.own_kernel and ABI < 2:  # the VM's own is new enough
        pytest.skip("this kernel has no Landlock, or too old a one")


async def test_an_execution_cannot_look_into_another(machine) -> None:
    """Same user, same VM, both may be looked into: what refuses is Landlock."""
    needs_landlock(machine)
    await machine.text("SECRET=told nohup sleep 60 > /dev/null 2>&1 & echo $! > /tmp/sleeper")
    look = "cat /proc/$(cat /tmp/sleeper)/environ | tr '\\0' '\\n' | grep SECRET"
    result = await machine.run(look)
    assert result.stdout == b""
    assert b"Permission denied" in result.stderr
    own = (
        "SECRET=told sleep 60 & sleep 0.2; tr '\\0' '\\n' < /proc/$!/environ | grep SECRET; kill $!"
    )
    assert await machine.text(own) == "SECRET=told\n"
    # It can be seen and ended, as servers left running are.
    assert (await machine.run("kill $(cat /tmp/sleeper)")).status == 0


async def test_landlock_leaves_files_as_they_were(machine) -> None:
    link = "ln" if machine.has(HARD_LINKS) else "cp"
    script = (
        f"cd /workspace && mkdir -p a b && echo x > a/f && mv a/f b/g && {link} b/g a/h"
        " && mkfifo b/p && mv b /tmp/moved && cat /tmp/moved/g a/h && rm -r /tmp/moved a"
        " && mkdir /made && mv /made /tmp/ && rmdir /tmp/made"
    )
    assert await machine.text(script) == "x\nx\n"
    assert (await machine.run("mknod /tmp/device c 1 3")).status != 0


async def test_proc_is_masked(machine) -> None:
    there = await machine.text(f"for f in {' '.join(MASKED)}; do [ ! -e $f ] || echo $f; done")
    paths = there.split()
    assert machine.driver.capabilities.own_kernel or len(paths) > 5
    script = "".join(f"cat {path} 2>/dev/null || ls -A {path}\n" for path in paths)
    assert await machine.text(script) == ""
    mounted = {
        line.split()[4]: line.split()
        for line in (await machine.text("cat /proc/self/mountinfo")).splitlines()
    }
    assert set(paths) <= set(mounted)
    for path in READ_ONLY:
        if (await machine.run(f"test -e {path}")).status == 0:
            assert "ro" in mounted[path][5].split(","), path
    assert (await machine.run("echo 1 > /proc/sys/kernel/core_uses_pid")).status != 0


async def test_nothing_gains_rights_by_being_run(machine) -> None:
    """No mount honours set-user-ID bits, and programs may gain nothing by an exec."""
    lines = (await machine.text("cat /proc/self/mountinfo")).splitlines()
    assert [line for line in lines if "nosuid" not in line.split()[5].split(",")] == []
    script = "cp $(command -v id) /tmp/id && chmod 6755 /tmp/id && /tmp/id -u && /tmp/id -g"
    assert (await machine.text(script)).split() == ["1000", "1000"]


async def test_mounts_say_nothing_of_where_the_server_keeps_things(machine) -> None:
    shown = await machine.text("cat /proc/self/mountinfo /proc/mounts")
    assert str(machine.vm.spec.layers.parent.parent) not in shown


async def test_there_is_no_sys(machine) -> None:
    assert await machine.text("ls -A /sys") == ""


async def test_limits(machine) -> None:
    code = (
        "import resource as r\n"
        "print(r.getrlimit(r.RLIMIT_CORE), r.getrlimit(r.RLIMIT_NOFILE)[1] < 1 << 21)"
    )
    assert await machine.text(code, "python") == "(0, 0) True\n"


async def test_agent_and_zygote_are_not_dumpable(machine) -> None:
    """What /proc shows of such a process belongs to nobody in the VM."""
    await machine.text("print(1)", "python")
    found = await machine.text("stat -c %u /proc/1/mem /proc/2/mem /proc/self/mem")
    agent, second, own = found.split()
    nobody = "65534" if machine.has(NOBODY) else "0"
    assert (agent, own) == (nobody, "1000")
    assert second in (nobody, "1000")  # the zygote, unless another module's test ended the first


def test_user_namespaces_are_off_by_limit_too(data_dir: Path) -> None:
    """The same walls without any filter: the kernel's own limit refuses the next one."""
    user = {"user": 61000, "group": 61000, "extra_groups": []} if os.geteuid() == 0 else {}
    code = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.unshare(0x10000000);"
        "print(ctypes.get_errno())"
    )
    done = subprocess.run(
        [
            str(preflight.reachable(preflight.find_bwrap(), data_dir)),
            *arguments._walls(),
            "--ro-bind",
            "/",
            "/",
        ]
        + ["--proc", "/proc", "--", "/usr/bin/python3", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        **user,
    )
    if "No such file" in done.stderr:
        pytest.skip("this host has no /usr/bin/python3")
    assert int(done.stdout) in (errno.ENOSPC, errno.EPERM), done.stderr
