"""What is said where bubblewrap cannot work, and which directory is in the way."""

import re
from pathlib import Path

import pytest

from mulligan.drivers.bubblewrap import preflight
from mulligan.errors import ConfigError

# Setting, its value here, and what is wrong with it
SETTINGS = [
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
]
SAID = "bwrap: No permissions to create a new namespace"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the settings are read from: an empty directory in place of /proc/sys."""
    moved = [
        (tmp_path / path.relative_to("/proc/sys"), *rest) for path, *rest in preflight._SETTINGS
    ]
    monkeypatch.setattr(preflight, "_SETTINGS", moved)
    monkeypatch.setattr(preflight, "_in_container", lambda: False)  # tests may well be in one
    return tmp_path


def put(proc: Path, name: str, value: str) -> None:
    path = proc / name.replace(".", "/")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{value}\n")


@pytest.mark.parametrize(("name", "bad", "good"), SETTINGS)
def test_the_setting_in_the_way_is_named(proc: Path, name: str, bad: str, good: str) -> None:
    """With its remedy and bubblewrap's own words, whether the other settings are there or not."""
    put(proc, name, bad)
    for _ in range(2):
        error = preflight.explain(SAID)
        assert f"{name} is {bad}" in str(error)
        assert f"(bubblewrap said: {SAID})" in str(error)
        assert error.remedy is not None
        assert f"sysctl -w {name}={good}" in error.remedy
        for other, _, fine in SETTINGS:
            if other != name:
                put(proc, other, fine)


def test_the_table_here_has_every_setting() -> None:
    paths = {Path("/proc/sys", name.replace(".", "/")) for name, *_ in SETTINGS}
    assert {row[0] for row in preflight._SETTINGS} == paths


@pytest.mark.parametrize("present", [False, True])
def test_nothing_is_named_where_nothing_is_wrong(proc: Path, present: bool) -> None:
    for name, _, good in SETTINGS if present else []:
        put(proc, name, good)
    error = preflight.explain(SAID)
    assert str(error) == f"Configuration error: bubblewrap cannot make a VM here: {SAID}"
    assert error.remedy is None


def test_a_chroot(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its root is no mount: what is mounted below it is all that is listed."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text("31 25 0:26 / /proc rw,relatime - proc proc rw\n")
    monkeypatch.setattr(preflight, "_MOUNTS", mounts)
    error = preflight.explain(SAID)
    assert "inside a chroot no namespace may be made" in str(error)
    assert SAID in str(error)
    assert "pivot_root" in (error.remedy or "")


def test_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_SETTINGS", ())
    monkeypatch.setenv("container", "podman")
    error = preflight.explain(SAID)
    assert "this container may not make namespaces" in str(error)
    assert SAID in str(error)
    assert "seccomp=unconfined" in (error.remedy or "")


@pytest.mark.parametrize(
    ("who", "mode", "passes"),
    [
        ("owner", 0o100, True),
        ("owner", 0o677, False),
        ("group", 0o010, True),
        ("group", 0o767, False),
        ("other", 0o001, True),
        ("other", 0o776, False),
        ("other", 0o711, True),
        ("owner_of_another_group", 0o100, True),
    ],
)
def test_barrier(data_dir: Path, who: str, mode: int, passes: bool) -> None:
    """The class of permissions is the first that fits, as it is for the kernel."""
    middle = data_dir / "a"
    (middle / "b").mkdir(parents=True)
    stat = middle.stat()
    user = {
        "owner": (stat.st_uid, stat.st_gid),
        "group": (stat.st_uid + 1, stat.st_gid),
        "other": (stat.st_uid + 1, stat.st_gid + 1),
        "owner_of_another_group": (stat.st_uid, stat.st_gid + 1),
    }[who]
    middle.chmod(mode)
    found = preflight.barrier(middle / "b", user)
    middle.chmod(0o700)
    assert found == (None if passes else middle)


def test_barrier_is_the_outermost_and_never_the_path_itself(data_dir: Path) -> None:
    path = data_dir / "a" / "b" / "c"
    path.mkdir(parents=True)
    stranger = (data_dir.stat().st_uid + 1, data_dir.stat().st_gid + 1)
    assert preflight.barrier(path, stranger) is None
    expected = None
    for closed in (path, path.parent, path.parent.parent):
        closed.chmod(0o700)
        expected = None if closed == path else closed
        assert preflight.barrier(path, stranger) == expected


def test_a_data_directory_out_of_reach_is_refused(data_dir: Path) -> None:
    stranger = (data_dir.stat().st_uid + 1, data_dir.stat().st_gid + 1)
    (data_dir / "closed" / "data").mkdir(parents=True)
    preflight.check_reachable(data_dir, stranger)
    (data_dir / "closed").chmod(0o700)
    said = f"{data_dir / 'closed'} is closed to it"
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        preflight.check_reachable(data_dir / "closed" / "data", stranger)
    assert caught.value.field == "data_dir"
    assert f"chmod o+x {data_dir / 'closed'}" in (caught.value.remedy or "")
