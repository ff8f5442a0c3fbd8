"""Templates of microVMs on disk, and the tree their machines come up in."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.drivers.qemu import templates, warm
from mulligan.drivers.qemu.arguments import Tools, qemu_command
from mulligan.drivers.qemu.copies import shown
from mulligan.errors import ConfigError
from unit.test_arguments import PLAIN
from unit.test_qemu_parts import PROGRAMS, QEMU

SHAPE = "0123456789abcdef"
STAMP = templates.Stamp(
    format=templates.FORMAT,
    qemu="1:2",
    kernel="k",
    image="i",
    processor="p",
    machine="m",
    tsc_khz=2_000_000,
)
PAGE = templates.PAGE
PAGES = [bytes(PAGE), b"\1" * PAGE, b"\0" * (PAGE - 1) + b"x"]


def kept(images: Path, memory: bytes = b"\1" * PAGE, shape: str = SHAPE) -> templates.Template:
    staged = templates.staging(images, shape)
    (staged / templates.DEVICES).write_bytes(b"devices")
    (staged / templates.INITRD).write_bytes(b"initrd")
    descriptor = os.memfd_create("test")
    try:
        os.write(descriptor, memory)
        os.ftruncate(descriptor, templates.MIB)
        return templates.keep(staged, shape, STAMP, descriptor)
    finally:
        os.close(descriptor)


def copy_of(template: templates.Template, size_mb: int = 1) -> bytes:
    with templates.memory_of(size_mb) as memory:
        template.fill(memory)
        return os.pread(memory, size_mb * templates.MIB, 0)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.sampled_from([bytes(PAGE), b"\1" * PAGE, b"\0" * (PAGE - 1) + b"x"]), max_size=9)
)
def test_a_copy_has_the_memory_of_its_template(
    tmp_path_factory: pytest.TempPathFactory, pages: list[bytes]
) -> None:
    directory = tmp_path_factory.mktemp("images")
    memory = b"".join(pages)
    template = kept(directory, memory)
    assert copy_of(template) == memory + bytes(templates.MIB - len(memory))
    stored = (template.directory / templates.MEMORY).stat()
    assert stored.st_size == templates.MIB
    assert stored.st_mode & 0o077 == 0
    shutil.rmtree(directory)


def test_pages_of_zeros_are_given_back_when_memory_is_written(tmp_path: Path) -> None:
    numbers = 0, 5, 6, 63, 64, 255
    with templates.memory_of(1) as memory:
        os.pwrite(memory, bytes(templates.MIB), 0)
        for number in numbers:
            os.pwrite(memory, b"x", number * PAGE)
        before = os.pread(memory, templates.MIB, 0)
        templates.store(memory, tmp_path / "memory")
        assert os.fstat(memory).st_blocks * 512 == len(numbers) * PAGE
        assert os.pread(memory, templates.MIB, 0) == before
        assert (tmp_path / "memory").read_bytes() == before
        os.pwrite(memory, b"y", 100 * PAGE)  # and can be taken again
        assert os.pread(memory, 1, 100 * PAGE) == b"y"


def test_memory_of_another_size_is_not_taken(tmp_path: Path) -> None:
    template = kept(tmp_path)
    with pytest.raises(OSError, match="another size"):
        copy_of(template, 2)


def test_what_is_found_is_what_was_kept(tmp_path: Path) -> None:
    assert templates.find(tmp_path, SHAPE, STAMP) is None
    template = kept(tmp_path)
    assert templates.find(tmp_path, SHAPE, STAMP) == template
    assert templates.find(tmp_path, "another", STAMP) is None
    later = STAMP.model_copy(update={"tsc_khz": 2_000_001})  # measured anew
    assert templates.find(tmp_path, SHAPE, later) == template


@pytest.mark.parametrize("name", sorted(set(templates.Stamp.model_fields) - {"tsc_khz"}))
def test_a_template_made_with_something_else_is_refused(tmp_path: Path, name: str) -> None:
    kept(tmp_path)
    now = STAMP.model_copy(update={name: 2 if name == "format" else "other"})
    with pytest.raises(ConfigError, match=rf"was made with another {name}\b") as caught:
        templates.find(tmp_path, SHAPE, now)
    assert caught.value.remedy == "mulligan microvm template"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ('{"directory": "../../etc", "stamp": {}}', "cannot be read"),
        (None, "is damaged"),
    ],
)
def test_a_damaged_template_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    template = kept(tmp_path)
    if text is None:
        (template.directory / templates.MEMORY).unlink()
    else:
        (tmp_path / f"template-{SHAPE}.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        templates.find(tmp_path, SHAPE, STAMP)


def test_a_new_template_replaces_those_nobody_can_be_a_copy_of(tmp_path: Path) -> None:
    first, other = kept(tmp_path), kept(tmp_path, shape="fedcba")
    second = kept(tmp_path)
    assert not first.directory.exists()
    assert other.directory.exists()
    pointer = tmp_path / "template-fedcba.json"
    pointer.write_text(pointer.read_text().replace('"1:2"', '"0:0"'))
    third = kept(tmp_path)
    assert not other.directory.exists()
    assert not second.directory.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [third.directory.name, f"template-{SHAPE}.json"]
    )


def test_a_copy_has_no_files_until_it_has_gone_on() -> None:
    """QEMU neither saves nor loads a machine that has them."""
    copy = replace(QEMU, told=30, memory=31, goes_on=True)
    command = qemu_command(PROGRAMS, copy)
    assert not any("vhost-user-fs" in each for each in command)
    assert any("pcie-root-port,id=late" in each for each in command)
    assert command[command.index("-incoming") + 1] == "defer"
    assert any("mem-path=/proc/self/fd/31" in each for each in command)
    plain = qemu_command(PROGRAMS, QEMU)
    assert any("vhost-user-fs" in each for each in plain)
    assert "-incoming" not in plain


def test_only_the_disk_of_a_copy_is_writable() -> None:
    places = shown(PLAIN)
    assert [place for _, place, writable in places if writable] == ["/.mulligan/vm"]
    assert (str(PLAIN.layers), "/.mulligan/layers", False) in places
    assert {str(path) for path in PLAIN.binds} <= {place for _, place, _ in places}


# The tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What an archive for this interpreter unpacks to."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or shutil.which("cpio") is None:
        pytest.skip("needs setpriv and cpio (Debian: apt-get install util-linux cpio)")
    import mulligan.guest

    agent = tmp_path / "agent"
    shutil.copytree(Path(mulligan.guest.__file__).parent, agent / "mulligan" / "guest")
    plan = replace(
        PLAIN,
        python=Path(sys.executable).resolve(),
        agent=agent,
        environment={"PATH": "/usr/bin", "LANG": "C.UTF-8"},
    )
    tools = Tools(Path(setpriv), Path("/none"), Path("/none"), Path(setpriv))
    archive = warm.first_file_system(tools, warm.plan_of(plan), b"")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(
        ["cpio", "-idm", "--quiet"], input=archive, cwd=unpacked, check=True, capture_output=True
    )
    return unpacked


def test_the_tree_of_a_template_has_what_its_agent_needs(tree: Path, tmp_path: Path) -> None:
    warm_tree = tree / "warm"
    for path in (*PLAIN.binds, tmp_path / "agent", Path("/late"), warm.DISK, warm.LAYERS):
        assert (warm_tree / str(path)[1:]).is_dir(), path
    assert (warm_tree / ".microvm/seccomp").stat().st_size > 0
    python = warm_tree / str(Path(sys.executable).resolve())[1:]
    assert os.access(python, os.X_OK)
    here = tmp_path / "agent/mulligan/guest/agent.py"
    there = warm_tree / str(here)[1:]
    assert there.read_bytes() == here.read_bytes()
    assert int(there.stat().st_mtime) == int(here.stat().st_mtime)  # compiled code is known by it
    import encodings

    assert (warm_tree / encodings.__file__[1:]).is_file()
    script = (tree / "init").read_text()
    assert "from mulligan.guest.woken import main" in script
    assert "vm-1" not in script  # it is nobody's yet
