"""How sure we are that a block is meant to be run: its features, weighed by ``FEATURES``."""

from __future__ import annotations

from dataclasses import dataclass

from mulligan.extraction import features
from mulligan.extraction.analysis import MOST_CODE, analyse, is_empty
from mulligan.extraction.features import FEATURES
from mulligan.extraction.guess import is_data, is_output
from mulligan.languages import LANGUAGES


@dataclass(frozen=True)
class Subject:
    """A block to be judged.

    Attributes:
        language: canonical name of the code's language.
        code: what would be run.
        said: features of what is known from outside the code: how it was found, what is said
            around it.
        words: words of the info string after the language.
    """

    language: str
    code: str
    said: frozenset[str]
    words: tuple[str, ...] = ()


def weigh(found: set[str] | frozenset[str]) -> float:
    """The confidence that a set of features gives, in [0, 1], to two decimals."""
    ceiling = min((FEATURES[name].ceiling for name in found), default=1.0)
    total = sum(FEATURES[name].weight for name in found)
    return round(min(max(total, 0.0), ceiling), 2)


def features_of(subject: Subject, look_into: bool = True) -> set[str]:
    """The features of a block: names of ``FEATURES``.

    Args:
        subject: the block.
        look_into: whether to read its code.
    """
    found = set(subject.said)
    if subject.language not in LANGUAGES:
        return found | {"other_language"}
    if any(word.strip(".") in features.ATTRIBUTES_NOT_TO_RUN for word in subject.words):
        found.add("marked_not_to_run")
    if not look_into or len(subject.code) > MOST_CODE:
        return found | {"not_parsed"}
    if is_empty(subject.code, subject.language):
        return found | {"empty"}
    if is_data(subject.code):
        found.add("data")
    elif is_output(subject.code) and "transcript" not in found:
        found.add("output")
    return found | _content(subject.code) | _program(subject)


def _content(code: str) -> set[str]:
    """What the code's text shows."""
    signs = {
        "placeholders": features.PLACEHOLDERS,
        "left_out": features.LEFT_OUT,
        "waits_for_input": features.WAITS,
        "serves_forever": features.SERVES,
        "needs_outside": features.OUTSIDE,
    }
    return {name for name, sign in signs.items() if sign.search(code)}


def _program(subject: Subject) -> set[str]:
    """What the code's structure shows."""
    code, language = subject.code, subject.language
    seen = analyse(code, language)
    found = set()
    if seen.third_party:
        found.add("third_party")
    if seen.parses is None:
        return found | {"not_parsed"}
    if not seen.parses:
        return found | {"does_not_parse"}
    if language == "bash":
        found.add("commands")
        if features.MACHINE.search(code):
            found.add("changes_a_machine")
        if features.USAGE.search(code) and "inline" not in subject.said:
            found.add("usage_line")
    elif seen.unknown:
        found.add("unknown_names")
    else:
        found.add("whole_program" if seen.does_something else "only_definitions")
    if features.SHOWS.search(code):
        found.add("shows_result")
    return found
