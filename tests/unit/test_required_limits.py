"""What ``limits_required`` refuses, and what it lets pass."""

from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.drivers.bubblewrap.holding import holding
from mulligan.drivers.cgroups import Cgroups
from mulligan.drivers.limits import Limits, check_held
from mulligan.errors import ConfigError
from mulligan.models import VmLimit


def limit(held_by: str, value: float = 8) -> VmLimit:
    return VmLimit(value=value, held_by=held_by, reason="why")


CASES = [
    ("cgroup-v2", 8, set()),
    ("rlimit", 8, set()),
    ("machine", 8, set()),
    ("agent", 8, set()),
    ("watched", 8, {"kernel"}),
    ("none", 8, {True, "kernel"}),
    ("none", 0, set()),
]


@pytest.mark.parametrize(("held_by", "value", "refused"), CASES)
def test_what_is_refused(held_by: str, value: float, refused: set[object]) -> None:
    held = {"shm_mb": limit("mount"), "memory_mb": limit(held_by, value)}
    for required in (False, True, "kernel"):
        if required in refused:
            with pytest.raises(ConfigError, match=r"memory_mb = 8: why") as caught:
                check_held(held, required)
            assert caught.value.field == "memory_mb"
            assert "limits_required to" in (caught.value.remedy or "")
        else:
            check_held(held, required)


def test_a_host_without_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is watched there, which is enough or is not, as the setting says."""
    monkeypatch.setattr("mulligan.drivers.cgroups.bases.present", list)
    held = holding(Limits(memory_mb=256), Cgroups(tmp_path))
    check_held(held, True)
    with pytest.raises(ConfigError, match="nothing but its own agent on this host") as caught:
        check_held(held, "kernel")
    assert "limits_required to true" in (caught.value.remedy or "")


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("kernel", "kernel"), ("0", False)])
def test_how_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, meant: object
) -> None:
    monkeypatch.setenv("MULLIGAN_LIMITS_REQUIRED", text)
    assert settings_module.load(data_dir=tmp_path).limits_required == meant


def test_what_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULLIGAN_LIMITS_REQUIRED", "cgroups")
    with pytest.raises(ConfigError, match="limits_required"):
        settings_module.load(data_dir=tmp_path)
