"""Malicious code is blocked, code that looks like it is not."""

import pytest

from mulligan.policy.dangerous import judge, load_rules
from support.code_cases import Case, cases

RULES = load_rules()


def blocked(case: Case) -> bool:
    return any(f.decision == "block" for f in judge(case.code, case.language, RULES))


MALICIOUS = cases("dangerous_malicious.txt") + cases("dangerous_malicious_2.txt")
HARMLESS = cases("dangerous_harmless.txt") + cases("dangerous_harmless_2.txt")


@pytest.mark.parametrize("case", MALICIOUS, ids=lambda case: case.group)
def test_malicious_code_is_blocked(case: Case) -> None:
    assert blocked(case)


@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case.group)
def test_harmless_code_is_let_through(case: Case) -> None:
    assert judge(case.code, case.language, RULES) == []


def test_shares_of_the_last_table() -> None:
    found = cases("dangerous_3.txt")
    malicious = [case for case in found if case.kind == "malicious"]
    harmless = [case for case in found if case.kind != "malicious"]
    assert sum(map(blocked, malicious)) >= 0.98 * len(malicious)
    assert not any(map(blocked, harmless))
