"""docs/drivers.md says of drivers what the code does."""

from pathlib import Path

from mulligan.drivers.choosing import CAPABILITIES, EMBEDDED, MAKERS, table

PAGE = Path(__file__).parents[2] / "docs" / "drivers.md"


def test_the_table_is_the_codes() -> None:
    assert f"-->\n\n{table()}\n" in PAGE.read_text()


def test_every_driver_has_its_line() -> None:
    assert set(MAKERS) == set(CAPABILITIES)
    for name in MAKERS:
        assert f"- `{name}`" in PAGE.read_text(), name


def test_the_embedded_one_is_the_last_resort() -> None:
    assert list(MAKERS)[-1] == EMBEDDED
