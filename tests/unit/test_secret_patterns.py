"""The packaged patterns against their own examples and near misses, and bad patterns."""

import random

import pytest

from mulligan.errors import ConfigError
from mulligan.policy.secrets import PatternSet, Sanitizer
from mulligan.policy.secrets.patterns import Pattern
from support.samples import expand

PATTERNS = PatternSet.default()
ALL = list(PATTERNS.patterns.values())
ROUNDS = 5


def only(pattern: Pattern) -> PatternSet:
    """A set of one pattern, without the rules that look at shapes and names."""
    row = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(pattern).items()}
    words = {"words": [w.decode() for w in PATTERNS.placeholders.words]}
    rules = {"assignment": False, "bare": False, "blocks": False}
    return PatternSet({"pattern": [row], "placeholders": words, "rules": rules})


@pytest.mark.parametrize("pattern", ALL, ids=lambda p: p.id)
def test_examples_are_found_and_near_misses_are_not(pattern: Pattern) -> None:
    sanitizer = Sanitizer(patterns=only(pattern))
    assert pattern.examples
    assert pattern.near_misses
    rng = random.Random(pattern.id)
    for template in pattern.examples * ROUNDS:
        text = expand(template, rng)
        around = [f"x {text} y", f'"{text}"', f"\\n{text}\\n", f"é{text},"]
        for written in [text, *(around if pattern.bounded else [])]:
            assert sanitizer.redact(written).count == 1, written
    for template in pattern.near_misses * ROUNDS:
        text = expand(template, rng)
        assert sanitizer.redact(text).text == text


@pytest.mark.parametrize("pattern", ALL, ids=lambda p: p.id)
def test_all_rules_together_find_the_examples_too(pattern: Pattern) -> None:
    rng = random.Random(pattern.id)
    for template in pattern.examples * ROUNDS:
        text = expand(template, rng)
        assert Sanitizer().redact(f"{text}\n").count >= 1, text


BAD = {
    "no_id": ({"name": "x"}, "must be a table with an id"),
    "bad_id": ({"id": "A b"}, "an id is small letters"),
    "no_regex": ({"id": "mine", "keywords": ["x"]}, "needs a regex"),
    "no_keywords": ({"id": "mine", "regex": "x"}, "at least one keyword"),
    "bad_regex": ({"id": "mine", "regex": "(x", "keywords": ["x"]}, "regex: missing )"),
    "look_around": ({"id": "mine", "regex": "(?=x)", "keywords": ["x"]}, "regex: invalid"),
    "empty_match": ({"id": "mine", "regex": "x*", "keywords": ["x"], "bounded": False}, "empty"),
    "unknown_field": ({"id": "mine", "rgex": "x"}, "unknown field 'rgex'"),
    "wrong_type": ({"id": "mine", "regex": 3}, "regex is no str"),
    "wrong_check": ({"id": "jwt", "check": "md4"}, "check must be one of"),
    "wrong_value": ({"id": "jwt", "value": "nice"}, "value must be one of"),
    "not_a_bool": ({"id": "jwt", "enabled": "no"}, "enabled is no bool"),
}


@pytest.mark.parametrize(("row", "says"), BAD.values(), ids=BAD)
def test_a_bad_pattern_is_refused_by_name(row: dict, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PatternSet.of({"pattern": [row]})
    assert says in str(caught.value)
    assert str(row.get("id", "x")) in str(caught.value)
    assert caught.value.field == "patterns"


def test_other_bad_mappings() -> None:
    for changes in ({"patterns": []}, {"pattern": {}}, {"rules": {"b": True}}, {"rules": 1},
                    {"placeholders": {"words": "x"}}, {"assignment": []}):  # fmt: skip
        with pytest.raises(ConfigError):
            PatternSet.of(changes)


def test_patterns_can_be_added_changed_and_switched_off() -> None:
    rng = random.Random(3)
    mine = {"id": "mine", "regex": "corp-[0-9]{8}", "keywords": ["corp-"]}
    token = expand("dapi{hex:32}", rng)
    changed = PatternSet.of(
        {"pattern": [mine, {"id": "databricks-token", "enabled": False}],
         "placeholders": {"words": ["Opensesame1"]}}
    )  # fmt: skip
    sanitizer = Sanitizer(patterns=changed)
    assert sanitizer.redact("a corp-12345678 b").text == "a [redacted:mine] b"
    assert sanitizer.redact(token).text == token
    assert sanitizer.redact("password=Opensesame1").count == 0
    assert Sanitizer().redact(token).text == "[redacted:databricks-token]"


def test_rules_can_be_switched_off() -> None:
    quiet = PatternSet.of({"rules": {"assignment": False}})
    assert Sanitizer(patterns=quiet).redact("password=Tr0ub4dor&3x").count == 0
    assert Sanitizer().redact("password=Tr0ub4dor&3x").count == 1
