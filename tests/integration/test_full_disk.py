"""A data directory on a disk that is full: clear errors, nothing lost, and on it goes."""

import pytest

from support import host, small_disk


def test_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    mounts = host.mounts()
    with host.data_directory() as directory:
        done = small_disk.run_module("support.full_disk", directory, 48)
        assert done.returncode == 0, done.stderr[-5000:]
        assert host.wait_until(lambda: not host.naming(directory)), host.naming(directory)
    assert host.mounts() == mounts
    with capsys.disabled():
        print(f"\nfull disk: {done.stdout.strip()} times refused")
