"""What ``find`` takes of what it meets, as its tests say."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mulligan.policy.dangerous.values import Text

_AGES: Final = frozenset({"-mtime", "-mmin", "-atime", "-amin", "-ctime", "-cmin"})


def filters(words: list[Text]) -> bool:
    """Whether a ``find`` takes only some of what it meets."""
    tests = ("-name", "-iname", "-path", "-wholename", "-regex", "-mtime", "-mmin", "-size",
             "-empty",
             "-newer", "-user", "-perm", "-atime", "-ctime", "-ipath", "-links",
             "-nouser", "-nogroup", "-group", "-uid", "-inum", "-samefile", "-newermt", "-cnewer",
             "-anewer")  # fmt: skip
    return any(
        word.text in tests
        and (at + 1 >= len(words) or words[at + 1].text not in ("*", "*.*", ".*"))
        for at, word in enumerate(words)
    )


def takes_old(words: list[Text]) -> bool:
    """Whether a ``find`` takes what nobody has touched for a while, and that alone."""
    pairs = pairwise(words)
    return any(word.text in _AGES and age.text[:1] == "+" for word, age in pairs)


def names(words: list[Text]) -> bool:
    """Whether a ``find`` says what the files it takes are called, or whose they are."""
    ages_and_sizes = (*_AGES, "-size", "-empty")
    return filters([each for each in words if each.text not in ages_and_sizes])
