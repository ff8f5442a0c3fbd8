"""Malicious code is blocked, code that looks like it is not."""

import pytest

from mulligan.policy.dangerous import judge, load_rules
from support.code_cases import Case, cases

RULES = load_rules()


def blocked(case: Case) -> bool:
    return any(f.decision == "block" for f in judge(case.code, case.language, RULES))


@pytest.mark.parametrize("case", cases("dangerous_malicious.txt"), ids=lambda case: case.group)
def test_malicious_code_is_blocked(case: Case) -> None:
    assert blocked(case)


@pytest.mark.parametrize("case", cases("dangerous_harmless.txt"), ids=lambda case: case.group)
def test_harmless_code_is_let_through(case: Case) -> None:
    assert judge(case.code, case.language, RULES) == []


def test_code_that_was_not_tuned_on() -> None:
    malicious = cases("dangerous_held_malicious.txt")
    harmless = cases("dangerous_held_harmless.txt")
    assert sum(map(blocked, malicious)) >= 0.92 * len(malicious)
    assert sum(map(blocked, harmless)) <= 0.003 * len(harmless)
