"""Secrets an agent's programs were given: what stays known, and for how long."""

import pytest

from mulligan.engine.executions.vault import MOST_KEPT, Vault
from mulligan.errors import ValidationFailed

LONG = 2000


def known(vault: Vault, value: str) -> bool:
    return value not in vault.sanitizer("a").redact(f"x {value} y").text


def test_a_secret_stays_known_after_its_execution() -> None:
    vault = Vault({"COMMON": "common-1234"}, "redact")
    vault.add("a", {"ONE": "first-value-1"})
    vault.add("a", {"ONE": "second-value-2"})
    assert all(known(vault, each) for each in ("common-1234", "first-value-1", "second-value-2"))
    assert "first-value-1" in vault.sanitizer("b").redact("first-value-1").text


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([f"value-{n:06}" for n in range(MOST_KEPT + 20)], id="many"),
        pytest.param([f"word{n:03} " * (LONG // 8) for n in range(30)], id="long"),
    ],
)
def test_the_oldest_are_forgotten_where_there_are_too_many(values: list[str]) -> None:
    vault = Vault({"COMMON": "c" * LONG}, "redact")
    for value in values:
        vault.add("a", {"TOKEN": value})
    assert [known(vault, values[n]) for n in (0, -2, -1)] == [False, True, True]


def test_an_execution_with_too_much_is_refused_and_leaves_what_was() -> None:
    vault = Vault({}, "redact")
    vault.add("a", {"KEPT": "kept-value-1"})
    with pytest.raises(ValidationFailed, match="more than 16384 bytes"):
        vault.add("a", {f"N{n}": f"{n}" + "w" * 7000 for n in range(3)})
    assert known(vault, "kept-value-1")
