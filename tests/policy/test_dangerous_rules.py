"""The rules' own examples, and what may be said in the settings."""

import pytest

from mulligan.errors import ConfigError
from mulligan.policy.dangerous import judge, load_rules

RULES = load_rules()
EXAMPLES = [
    (name, language, code, expected)
    for name, rule in RULES.data.rules.items()
    for table, expected in ((rule.matches, True), (rule.passes, False))
    for language, codes in table.items()
    for code in codes
]


def rules_met(code: str, language: str = "bash", rules=RULES) -> set[str]:
    return {finding.rule for finding in judge(code, language, rules)}


@pytest.mark.parametrize(("name", "language", "code", "expected"), EXAMPLES)
def test_examples(name: str, language: str, code: str, expected: bool) -> None:
    met = rules_met(code, language)
    if expected:
        assert name in met
    else:
        assert not met


def test_every_rule_has_examples_both_ways() -> None:
    silent = {"run-secret"}  # its effect is in the examples of read-secret
    for name, rule in RULES.data.rules.items():
        if name not in silent:
            assert any(rule.matches.values()), name
            assert any(rule.passes.values()), name


def test_a_rule_is_switched_off() -> None:
    rules = load_rules({"rules": {"delete-system": {"enabled": False}}})
    assert rules_met("rm -rf /") == {"delete-system"}
    assert rules_met("rm -rf /", rules=rules) == set()
    assert len(rules) == len(RULES) - 1


def test_a_rule_asks_instead() -> None:
    rules = load_rules({"rules": {"delete-system": {"decision": "ask"}}})
    assert [finding.decision for finding in judge("rm -rf /", "bash", rules)] == ["ask"]


def test_a_rule_is_added() -> None:
    rule = {
        "decision": "block",
        "group": "ours",
        "reason": "Deploys from here",
        "match": [{"command": ["deploy"], "flags": ["p|production"], "not_args": ["--dry-run"]}],
    }
    rules = load_rules({"rules": {"no-deploys": rule}})
    assert rules_met("sudo ./deploy --production now", rules=rules) == {"no-deploys"}
    assert rules_met("import os; os.system('deploy -p')", "python", rules) == {"no-deploys"}
    assert rules_met("deploy --production --dry-run", rules=rules) == set()
    assert rules_met("echo deploy -p", rules=rules) == set()
    assert rules_met("deploy -p") == set()


def test_a_call_and_a_class_of_paths_are_added() -> None:
    rules = load_rules(
        {
            "paths": {"ledger": ["/srv/ledger/**"]},
            "rules": {
                "ledger": {
                    "decision": "ask",
                    "group": "ours",
                    "reason": "The ledger is written by the ledger only",
                    "match": [
                        {"effect": ["write", "delete"], "paths": ["ledger"]},
                        {"call": ["ledgerlib.*"], "keywords": ["force=True"]},
                    ],
                }
            },
        }
    )
    assert rules_met("echo x >> /srv/ledger/2024", rules=rules) == {"ledger"}
    assert rules_met("open('/srv/ledger/a', 'w')", "python", rules) == {"ledger"}
    assert rules_met("cat /srv/ledger/a", rules=rules) == set()
    assert rules_met("import ledgerlib as l\nl.post(1)", "python", rules) == set()


BAD = {
    "unknown section": ({"ruls": {}}, "ruls"),
    "section is no table": ({"rules": []}, "rules"),
    "rule is no table": ({"rules": {"delete-system": 3}}, "rules.delete-system"),
    "decision": ({"rules": {"delete-system": {"decision": "no"}}}, "rules.delete-system.decision"),
    "field": ({"rules": {"delete-system": {"reasons": "x"}}}, "rules.delete-system.reasons"),
    "new without match": (
        {"rules": {"mine": {"decision": "ask", "group": "g", "reason": "r"}}},
        "rules.mine.match",
    ),
    "id": ({"rules": {"Not An Id": {}}}, "rules.Not An Id"),
    "language": (
        {"rules": {"delete-system": {"languages": ["cobol"]}}},
        "rules.delete-system.languages",
    ),
    "class of paths": (
        {"rules": {"delete-system": {"match": [{"effect": ["read"], "paths": ["nowhere"]}]}}},
        "rules.delete-system.match.0.paths",
    ),
    "nothing to match": (
        {"rules": {"delete-system": {"match": [{"args": ["x"]}]}}},
        "rules.delete-system.match.0",
    ),
    "too many stars": (
        {"rules": {"delete-system": {"match": [{"command": ["x"], "args": ["*a*b*c*d*e"]}]}}},
        "rules.delete-system.match.0",
    ),
    "stars in paths": ({"paths": {"mine": ["*/*/*/*/*/*"]}}, "paths.mine"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rules_are_refused_by_name(name: str) -> None:
    overrides, field = BAD[name]
    with pytest.raises(ConfigError) as caught:
        load_rules(overrides)
    assert caught.value.field is not None
    assert caught.value.field.startswith(field)
    assert field.split(".")[-1] in str(caught.value)
    assert caught.value.remedy is not None
