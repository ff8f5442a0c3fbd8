"""Output as a model reads it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mulligan.mcp.text import MOST_LINES, clean, fenced, first_line, last_line, shown
from mulligan.printable import printable

TEXTS = st.text(st.sampled_from("ab\n\r\t\x1b[m0;`é\x00\u202e"), max_size=60)


@given(st.lists(st.sampled_from(["", "x", "line", "é" * 400]), max_size=600).map("\n".join))
def test_a_cut_output_is_its_beginning_and_end(text: str) -> None:
    found = shown(text, "exec-1", "stdout")
    assert found.length == len(text)
    if found.missing is None:
        assert found.text == text
        return
    start, end = found.missing
    assert 0 <= start < end <= len(text)
    head, marker, tail = re.split(r"(\[… .*? …\]\n)", found.text, maxsplit=1)
    assert head.rstrip("\n") == text[:start].rstrip("\n")
    assert tail == text[end:]
    assert f"offset={start})" in marker
    assert f"{end - start} characters" in marker
    assert len(found.text) <= 8000 + len(marker) + 1
    assert found.text.count("\n") <= MOST_LINES + 2


def test_cuts_stand_between_lines() -> None:
    text = "".join(f"{n}\n" for n in range(5000))
    found = shown(text, "exec-1", "stdout")
    assert found.missing is not None
    assert [text[place - 1] for place in found.missing] == ["\n", "\n"]
    assert found.text.endswith("…]\n4900\n" + text[found.missing[1] + 5 :])


def test_short_output_is_whole() -> None:
    for text in ("", "x", "x\n", "\n" * MOST_LINES, "x" * 8000):
        assert shown(text, "e", "stdout") == (text, len(text), None)


@given(TEXTS)
def test_clean_text_is_printable_and_stays_so(text: str) -> None:
    cleaned = clean(text)
    assert all(char.isprintable() or char in "\n\t" for char in cleaned)
    assert clean(cleaned) == cleaned
    assert cleaned.count("\n") == text.count("\n")


@given(TEXTS)
def test_printable_is_what_it_says_of_each_character(text: str) -> None:
    assert printable(text) == "".join(printable(char) for char in text.replace("\r\n", "\n"))


def test_clean() -> None:
    assert clean("\x1b[1;31mred\x1b[0m") == "red"
    assert clean(" 1%\r 50%\r100%\r\nnext\r") == "100%\nnext"
    assert clean("a\x1b]8;;http://x\x07b") == "a\\x1b]8;;http://x\\x07b"
    assert clean("\x1b[" * 100_000 + "m") == "\\x1b[" * 99_999


@given(TEXTS)
def test_a_fence_holds(text: str) -> None:
    lines = fenced(text).split("\n")
    assert lines[0] == lines[-1]
    assert lines[0] not in lines[1:-1]
    assert lines[0].startswith("```")


def test_lines() -> None:
    assert first_line("\n\n  x = 1 \ny") == "x = 1…"
    assert first_line("x") == "x"
    assert first_line("") == ""
    assert len(first_line("x" * 500)) == 100
    assert last_line("a\nb\n\n") == "b"
    assert last_line("") == "(nothing)"
    assert len(last_line("x" * 500)) == 100
