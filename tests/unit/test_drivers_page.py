"""docs/drivers.md says of drivers what the code does."""

from pathlib import Path

import pytest

from mulligan.drivers.choosing import CAPABILITIES, EMBEDDED, MAKERS, table
from mulligan.engine.drivers import check_kept, lacking
from mulligan.errors import ConfigError
from mulligan.settings import VmType

PAGE = Path(__file__).parents[2] / "docs" / "drivers.md"


def test_the_table_is_the_codes() -> None:
    assert f"-->\n\n{table()}\n" in PAGE.read_text()


def test_every_driver_has_its_line() -> None:
    assert set(MAKERS) == set(CAPABILITIES)
    for name in MAKERS:
        assert f"- `{name}`" in PAGE.read_text(), name


def test_the_embedded_one_is_the_last_resort() -> None:
    assert list(MAKERS)[-1] == EMBEDDED


@pytest.mark.parametrize(
    ("asked", "able", "setting"),
    [
        ({}, {"qemu", "gvisor", "bubblewrap"}, None),
        (
            {"network": "allowlist", "allow": ["a.example"]},
            {"qemu", "gvisor", "bubblewrap"},
            None,
        ),
        ({"image": "debian"}, {"gvisor", "bubblewrap"}, "image"),
        ({"keep_memory": True}, {"qemu", "gvisor"}, "keep_memory"),
        ({"allow_builds": True}, {"bubblewrap"}, "allow_builds"),
    ],
)
def test_what_a_type_asks_for_is_done_or_said_not_to_be(
    asked: dict[str, object], able: set[str], setting: str | None
) -> None:
    found = {name: lacking(each, VmType(**asked)) for name, each in CAPABILITIES.items()}
    assert {name for name, lack in found.items() if lack is None} == able
    for lack in found.values():
        assert lack is None or (lack.setting, lack.words[:5]) == (setting, "which")


def test_memory_that_names_what_is_gone_is_not_kept() -> None:
    check_kept("n", VmType(keep_memory=True))
    with pytest.raises(ConfigError, match="do not outlive the server") as caught:
        check_kept("n", VmType(keep_memory=True, network="allowlist", allow=["a.example"]))
    assert caught.value.field == "vm_types.n.keep_memory"
