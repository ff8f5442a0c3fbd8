"""The words a full-text search goes by.

They are split here and not by the databases, so that SQLite and PostgreSQL find the same rows. A
word is a run of letters, digits and underscores, whatever its case; the parts of an identifier
(``max_value``, ``ZeroDivisionError``, ``utf8``) are words too, and so is each Chinese, Japanese
or Korean character and each symbol that is not ASCII, such as an emoji. ASCII punctuation is
passed over.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import cast

from sqlalchemy import ColumnElement, Connection, text

from mulligan.history.hot import Hot
from mulligan.history.schema import words

TEXT_CHARS = 65536  # of each text, so much is indexed
_WORD_CHARS = 64  # of each word, so much counts
_INDEX_BYTES = 900_000  # PostgreSQL takes no more than 1 MiB for a row
_FAILED = ":f"  # no text has such a word
_WORD = re.compile(r"\w+|[^\x00-\x7f]")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def _words(text: str) -> Iterable[str]:
    """Words as they are written, in order."""
    for word in _WORD.findall(text):
        if word.isascii() or not _IDEOGRAPH.search(word):
            if word.isascii() or word.isalnum() or "_" in word or _is_symbol(word):
                yield word
        else:
            yield from _IDEOGRAPH.findall(word)
            yield from filter(None, _IDEOGRAPH.split(word))


def _is_symbol(character: str) -> bool:
    return unicodedata.category(character)[0] == "S"


def _parts(word: str) -> Iterable[str]:
    """The parts of an identifier; none of a plain word."""
    if not word.isascii():
        return word.split("_") if "_" in word else ()
    if word.isalpha() and (word.islower() or word.isupper()):
        return ()
    return _PART.findall(word)


def _folded(word: str) -> str:
    return word.casefold()[:_WORD_CHARS]


def words_of(*texts: str | None) -> set[str]:
    """What a row with these texts is found by."""
    found: set[str] = set()
    seen: set[str] = set()
    size = 0
    for source in texts:
        for word in _words((source or "")[:TEXT_CHARS]):
            if word in seen:
                continue
            seen.add(word)
            new = {_folded(each) for each in (word, *_parts(word)) if each} - found
            size += sum(len(each.encode()) + 8 for each in new)
            if size > _INDEX_BYTES:
                return found
            found |= new
    return found


def search_words(search: str) -> list[str]:
    """The words that must all be in a row for it to be found; parts are not looked for."""
    return list(dict.fromkeys(_folded(word) for word in _words(search)))


def condition(
    connection: Connection, wanted: list[str], span: tuple[int, int], *, failed: bool
) -> list[ColumnElement[bool]]:
    """The conditions on ``mulligan_words`` for (failed) rows that have all these words.

    Args:
        connection: to the database.
        wanted: from `search_words`, and not empty.
        span: first and last rowid.
        failed: whether rows of failed executions alone are wanted.
    """
    every = [_FAILED, *wanted] if failed else wanted
    if connection.dialect.name == "sqlite":
        match = text("mulligan_words MATCH :match")
        match = match.bindparams(match=" AND ".join(f'"{word}"' for word in every))
    else:
        match = text("mulligan_words.words @@ CAST(:match AS tsquery)")
        match = match.bindparams(match=" & ".join(f"'{word}'" for word in every))
    return [cast("ColumnElement[bool]", match), words.c.rowid.between(*span)]


_INSERT = {
    "sqlite": Hot(text("INSERT INTO mulligan_words(rowid, words) VALUES (:seq, :words)")),
    "postgresql": Hot(
        text(
            "INSERT INTO mulligan_words(rowid, words) "
            "VALUES (:seq, array_to_tsvector(CAST(:words AS text[])))"
        )
    ),
}
_UPDATE = {
    "sqlite": Hot(text("UPDATE mulligan_words SET words = :words WHERE rowid = :seq")),
    "postgresql": Hot(
        text(
            "UPDATE mulligan_words SET words = array_to_tsvector(CAST(:words AS text[])) "
            "WHERE rowid = :seq"
        )
    ),
}


_APPEND = {
    "sqlite": text("UPDATE mulligan_words SET words = words || ' ' || :word WHERE rowid = :seq"),
    "postgresql": text(
        "UPDATE mulligan_words SET words = words || array_to_tsvector(ARRAY[CAST(:word AS text)]) "
        "WHERE rowid = :seq"
    ),
}


def every_word(found: Iterable[str], *, failed: bool) -> list[str]:
    """What `words_of` found, and the mark of a failed row."""
    return [*([_FAILED] if failed else []), *sorted(found)]


def index(connection: Connection, seq: int, every: list[str], *, new: bool) -> None:
    """Makes a row findable by the words of `every_word`, instead of by those it had."""
    name = connection.dialect.name
    value = " ".join(every) if name == "sqlite" else every
    (_INSERT if new else _UPDATE)[name].run(connection, {"seq": seq, "words": value})


def mark_failed(connection: Connection, seq: int) -> None:
    """Makes a row findable as a failed one, too."""
    connection.execute(_APPEND[connection.dialect.name], {"seq": seq, "word": _FAILED})
