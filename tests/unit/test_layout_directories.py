"""OCI layouts that are directories, as archives."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from mulligan.errors import ValidationFailed
from mulligan.images import layouts
from mulligan.images.layouts import Layout
from support import host
from support.images import Oci, entry, tar

LONG = "blobs/sha512/" + "0" * 128


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = Oci(tar(entry("f", b"x" * 700)), tar(entry("g", b""))).write(tmp_path / "it")
    (made / LONG).parent.mkdir()
    (made / LONG).write_bytes(b"long")
    return made


def test_the_archive_is_the_layout_and_nothing_else(directory: Path) -> None:
    expected = {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*/*/?*")}
    expected |= {name: (directory / name).read_bytes() for name in layouts.FIRST}
    for name in ("README", "blobs/sha256/notes", "blobs/md5/" + "0" * 64):
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("not of the layout")
    before = host.descriptors()
    with Layout(directory) as layout:
        data = b"".join(layout.tar())
        assert len(data) == layout.size
        assert data == b"".join(layout.tar())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {each.name: archive.extractfile(each).read() for each in archive}
        assert archive.getnames()[:2] == list(layouts.FIRST)
    assert found == expected
    assert host.descriptors() == before


def linked(path: Path) -> None:
    target = path.with_name(f"{path.name}.away")
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["oci-layout", "index.json", "blobs", "blobs/sha256", LONG])
def test_no_link_is_followed(directory: Path, name: str) -> None:
    linked(directory / name)
    with pytest.raises(OSError, match=r"Too many levels of symbolic links|Not a directory"):
        Layout(directory)


@pytest.mark.parametrize("name", ["oci-layout", LONG])
def test_what_is_no_file(directory: Path, name: str) -> None:
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(ValidationFailed, match="is no file"):
        Layout(directory)


def test_what_is_missing(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(ValidationFailed, match="it has no oci-layout") as refused:
        Layout(tmp_path)
    assert "tar -C" in refused.value.remedy
    (directory / "blobs").rename(tmp_path / "gone")
    with pytest.raises(ValidationFailed, match="it has no blobs"):
        Layout(directory)


def test_it_is_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "MOST_FILES", 4)
    with pytest.raises(ValidationFailed, match="over 4 blobs"):
        Layout(directory)


def test_what_changes_while_it_is_read(directory: Path) -> None:
    with Layout(directory) as layout:
        (directory / LONG).write_bytes(b"")
        with pytest.raises(ValidationFailed, match="became shorter"):
            list(layout.tar())
        (directory / LONG).write_bytes(b"longer than it was")
        assert len(b"".join(layout.tar())) == layout.size
        (directory / LONG).unlink()
        with pytest.raises(ValidationFailed, match="it has no"):
            list(layout.tar())
