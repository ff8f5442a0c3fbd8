"""What a VM is called by inside: the files that say it, and what a hostile image changes."""

import os
import re
from pathlib import Path

import pytest

from mulligan.drivers.qemu import firstprocess
from mulligan.guest import identity

NAMES = ("etc/hostname", "etc/machine-id", "etc/hosts")


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its /etc/hosts; the layer is beside it."""
    monkeypatch.setattr(identity, "OWN", str(tmp_path / "own"))
    monkeypatch.setattr(identity, "IMAGE", str(tmp_path / "image"))
    hosts = tmp_path / "image" / "etc" / "hosts"
    hosts.parent.mkdir(parents=True)
    return hosts


def said() -> list[str]:
    return [Path(identity.OWN, name).read_text() for name in NAMES]


def test_it_is_of_the_vm_and_always_the_same() -> None:
    one, again, other = (firstprocess.identity(vm_id) for vm_id in ("vm-1", "vm-1", "vm-2"))
    assert one == again
    assert not set(one.values()) & set(other.values())
    assert re.fullmatch("[0-9a-f]{32}", one["machine_id"])  # machine-id(5)


def test_the_files_are_the_same_ones_with_other_content(image: Path) -> None:
    image.write_text("127.0.0.1\tlocalhost")
    assert not identity.laid()
    old_umask = os.umask(0o077)
    try:
        assert identity.lay({"hostname": "a", "machine_id": "1" * 32}) == identity.OWN
    finally:
        os.umask(old_umask)
    assert said() == ["a\n", "1" * 32 + "\n", "127.0.0.1\tlocalhost\n127.0.0.1\ta\n"]
    before = [os.stat(f"{identity.OWN}/{name}") for name in NAMES]
    identity.lay({"hostname": "longer", "machine_id": "2" * 32})
    assert identity.laid()
    assert said() == ["longer\n", "2" * 32 + "\n", "127.0.0.1\tlocalhost\n127.0.0.1\tlonger\n"]
    after = [os.stat(f"{identity.OWN}/{name}") for name in NAMES]
    assert [(each.st_ino, each.st_mode & 0o777) for each in after] == [
        (each.st_ino, 0o644) for each in before
    ]


@pytest.mark.parametrize("what", ["nothing", "link", "fifo", "directory", "much", "binary"])
def test_an_image_may_have_anything_there(image: Path, what: str) -> None:
    if what == "link":
        image.symlink_to("/etc/passwd")
    elif what == "fifo":
        os.mkfifo(image)
    elif what == "directory":
        image.mkdir()
    elif what == "much":
        image.write_bytes(b"x" * (identity.MOST_HOSTS + 1))
    elif what == "binary":
        image.write_bytes(b"\xff\xfe")
    identity.lay({"hostname": "a", "machine_id": "1" * 32})
    assert said()[2].removeprefix("\ufffd\ufffd\n") == "127.0.0.1\ta\n"
