"""Removed files that are still open, mapped, or on their way between processes."""

import mmap
import os
import socket
from pathlib import Path

import pytest

from mulligan.guest import procfs, removed

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def this_process_alone(monkeypatch) -> None:
    monkeypatch.setattr(procfs, "everything", lambda: [os.getpid()])


def held(directory: Path) -> int:
    """A descriptor of a file of ``SIZE`` bytes that is in no directory."""
    path = directory / "file"
    path.write_bytes(os.urandom(SIZE))
    os.sync()
    descriptor = os.open(path, os.O_RDWR)
    path.unlink()
    return descriptor


def test_open_mapped_and_forgotten(tmp_path) -> None:
    before = removed.Removed(str(tmp_path)).size
    descriptor = held(tmp_path)
    second = os.dup(descriptor)
    assert SIZE <= removed.Removed(str(tmp_path)).size - before < 2 * SIZE  # once for two names
    os.close(second)
    with mmap.mmap(descriptor, SIZE):
        os.close(descriptor)
        device = os.stat("/").st_dev
        expected = SIZE if os.stat(tmp_path).st_dev == device else 0
        assert removed.Removed(str(tmp_path)).size - before == expected
    assert removed.Removed(str(tmp_path)).size == before


def test_memory_and_files_with_a_name_do_not_count(tmp_path) -> None:
    before = removed.Removed(str(tmp_path)).size
    memory = os.memfd_create("large")
    os.write(memory, bytes(SIZE))
    with (tmp_path / "named").open("wb") as file:
        file.write(bytes(SIZE))
        file.flush()
        assert removed.Removed(str(tmp_path)).size == before
    os.close(memory)


def test_descriptors_in_a_socket_are_noticed(tmp_path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not removed.Removed(str(tmp_path)).in_flight
        descriptor = held(tmp_path)
        socket.send_fds(ours, [b"."], [descriptor])
        os.close(descriptor)
        assert removed.Removed(str(tmp_path)).in_flight
        _, received, _, _ = socket.recv_fds(theirs, 1, 1)
        os.close(*received)
        assert not removed.Removed(str(tmp_path)).in_flight


def test_there_is_an_end_to_looking(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(removed, "MOST_DESCRIPTORS", 2)
    with pytest.raises(removed.TooManyError):
        removed.Removed(str(tmp_path))
