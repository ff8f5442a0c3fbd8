"""What changed of a machine's memory: written down, and made again; damage is refused."""

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mulligan.drivers.qemu import changes, templates
from mulligan.drivers.qemu.changes import CHUNK, PAGE

SIZE = 1 << 20  # bytes, four chunks
PAGES = SIZE // PAGE
BASE = {0: b"a", 1: b"b", 63: b"c", 64: b"d", 200: b"e"}


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def memory(held: ExitStack, pages: dict[int, bytes]) -> int:
    """Memory with pages of one letter each, and holes."""
    opened = held.enter_context(templates.memory_of(SIZE >> 20))
    for number, letter in pages.items():
        os.pwrite(opened, letter * PAGE, number * PAGE)
    return opened


def content(opened: int) -> bytes:
    return os.pread(opened, SIZE, 0)


def test_what_is_written_is_what_changed_and_no_more(held: ExitStack, tmp_path: Path) -> None:
    base = memory(held, BASE)
    now = memory(held, BASE | {1: b"B", 2: b"n", 63: b"C", 64: b"D", 255: b"l"})
    assert changes.store(now, base, tmp_path / "changes", SIZE)
    assert (tmp_path / "changes").stat().st_size == 5 * PAGE + 3 * 16 + 8  # 1-2, 63-64, 255
    assert (tmp_path / "changes").stat().st_mode & 0o777 == 0o600
    changes.apply(tmp_path / "changes", base)
    assert content(base) == content(now)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(st.integers(0, PAGES - 1), st.sampled_from([b"a", b"b", b"\0"]), max_size=20),
    st.dictionaries(st.integers(0, PAGES - 1), st.sampled_from([b"a", b"b", b"\0"]), max_size=20),
)
def test_any_two_memories(
    tmp_path: Path, before: dict[int, bytes], after: dict[int, bytes]
) -> None:
    with ExitStack() as held:
        base, now = memory(held, before), memory(held, after)
        path = tmp_path / "changes"
        path.unlink(missing_ok=True)
        assert changes.store(now, base, path, SIZE)
        holes = os.fstat(now).st_blocks
        changes.apply(path, base)
        assert content(base) == content(now)
        assert os.fstat(now).st_blocks == holes  # looking fills none


def test_too_much_is_not_written(held: ExitStack, tmp_path: Path) -> None:
    base, now = memory(held, {}), memory(held, dict.fromkeys(range(4), b"x"))
    assert not changes.store(now, base, tmp_path / "changes", 3 * PAGE)
    assert list(tmp_path.iterdir()) == []
    assert changes.store(now, base, tmp_path / "changes", 4 * PAGE)


def test_a_copy_of_another_size_is_none(held: ExitStack, tmp_path: Path) -> None:
    base = held.enter_context(templates.memory_of(2))
    assert not changes.store(memory(held, {}), base, tmp_path / "changes", SIZE)
    assert list(tmp_path.iterdir()) == []


def test_nothing_changed(held: ExitStack, tmp_path: Path) -> None:
    base = memory(held, BASE)
    assert changes.store(base, base, tmp_path / "changes", 0)
    changes.apply(tmp_path / "changes", base)
    assert content(base) == content(memory(held, BASE))


def _file(*runs: tuple[int, int], data: int = PAGE, count: int | None = None) -> bytes:
    packed = b"".join(struct.pack("<QQ", *run) for run in runs)
    return b"x" * data + packed + struct.pack("<Q", len(runs) if count is None else count)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"1234567",
        _file(count=1),
        _file(count=1 << 63),
        _file(count=(1 << 64) - 1),
        _file((0, PAGE), data=PAGE - 1),
        _file((0, PAGE), data=2 * PAGE),
        _file((0, 0), data=0),
        _file((1, PAGE)),
        _file((0, PAGE - 1), data=PAGE - 1),
        _file((SIZE, PAGE)),
        _file((SIZE - PAGE, 2 * PAGE), data=2 * PAGE),
        _file((1 << 63, PAGE)),
        _file((PAGE, PAGE), (0, PAGE), data=2 * PAGE),
        _file((0, PAGE), (0, PAGE), data=2 * PAGE),
        _file((0, PAGE))[:-1],
        _file((0, PAGE))[1:],
    ],
)
def test_damage_is_refused_before_anything_is_changed(
    held: ExitStack, tmp_path: Path, damaged: bytes
) -> None:
    base = memory(held, BASE)
    (tmp_path / "changes").write_bytes(damaged)
    with pytest.raises(OSError, match="damaged"):
        changes.apply(tmp_path / "changes", base)
    assert content(base) == content(memory(held, BASE))


def test_a_chunk_is_whole_pages() -> None:
    assert CHUNK % PAGE == 0
