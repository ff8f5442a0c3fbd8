"""Fenced blocks of a text: their language, code and place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.extraction.blocks import Fence, fences
from mulligan.languages import ALIASES


def fenced_blocks(text: str) -> list[Fence]:
    return fences(text, 1_000_000)


# Text, and of each block: language, code, and what is at its place
TABLE = {
    "nothing": ("no code, only `code` here", []),
    "empty": ("", []),
    "plain": ("a\n```python\nx\n```\nb", [("python", "x\n", "```python\nx\n```")]),
    "no_newline_at_the_end": ("```py\nx\n```", [("python", "x\n", "```py\nx\n```")]),
    "no_language": ("```\nx\n```\n", [("", "x\n", "```\nx\n```")]),
    "blank_info": ("```  \nx\n```\n", [("", "x\n", "```  \nx\n```")]),
    "unknown_language": ("```COBOL\nx\n```\n", [("cobol", "x\n", "```COBOL\nx\n```")]),
    "first_word": (
        "``` Py title=a.py\nx\n```\n",
        [("python", "x\n", "``` Py title=a.py\nx\n```")],
    ),
    "no_code": ("```sh\n```\n", [("bash", "", "```sh\n```")]),
    "blank_lines": ("```sh\n\nx\n\n```\n", [("bash", "\nx\n\n", "```sh\n\nx\n\n```")]),
    "tildes": ("~~~js\n```\n~~~\n", [("javascript", "```\n", "~~~js\n```\n~~~")]),
    "tildes_with_backticks_in_info": ("~~~ a`b\nx\n~~~", [("a`b", "x\n", "~~~ a`b\nx\n~~~")]),
    "longer": (
        "````md\n```\nx\n```\n````\n",
        [("md", "```\nx\n```\n", "````md\n```\nx\n```\n````")],
    ),
    "closed_by_a_longer_one": ("```\nx\n`````\ny", [("", "x\n", "```\nx\n`````")]),
    "trailing_spaces": ("```\nx\n```  \ny", [("", "x\n", "```\nx\n```  ")]),
    "not_closed_by_info": (
        "```\nx\n```py\ny\n```",
        [("", "x\n```py\ny\n", "```\nx\n```py\ny\n```")],
    ),
    "two_are_no_fence": ("``\nx\n``\n", []),
    "inline_is_no_fence": ("``` x ``` y\n", []),
    "indented_code_is_no_fence": ("    ```\n    x\n    ```\n", []),
    "indented_fence": (
        "  ```sh\n  x\n   y\n  ```\n",
        [("bash", "x\n y\n", "  ```sh\n  x\n   y\n  ```")],
    ),
    "unclosed": ("a\n\n```py\nx\ny", [("python", "x\ny", "```py\nx\ny")]),
    "unclosed_and_empty": ("a\n```py", [("python", "", "```py")]),
    "after_a_paragraph": ("a\n```\nx\n```", [("", "x\n", "```\nx\n```")]),
    "in_a_list": (
        "- a\n  ```sh\n  x\n    y\n  ```\n- b",
        [("bash", "x\n  y\n", "  ```sh\n  x\n    y\n  ```")],
    ),
    "at_a_list_item": (
        "1. ```sh\n   x\n\n   y\n   ```\n2. b",
        [("bash", "x\n\ny\n", "1. ```sh\n   x\n\n   y\n   ```")],
    ),
    "in_a_quote": (
        "> ```rs\n> x\n>  y\n> ```\nb",
        [("rust", "x\n y\n", "> ```rs\n> x\n>  y\n> ```")],
    ),
    "ended_by_its_quote": ("> ```rs\n> x\n\ny", [("rust", "x\n", "> ```rs\n> x")]),
    "in_a_list_in_a_quote": (
        "> - ~~~\n>   x\n>   ~~~\n",
        [("", "x\n", "> - ~~~\n>   x\n>   ~~~")],
    ),
    "crlf": (
        "a\r\n```py\r\nx\r\n\r\ny\r\n```\r\nb\r\n",
        [("python", "x\n\ny\n", "```py\r\nx\r\n\r\ny\r\n```")],
    ),
    "cr": ("a\r```py\rx\r```\rb", [("python", "x\n", "```py\rx\r```")]),
    "mixed_line_ends": ("\r\n\r\n\n```\rx\r\n```\n", [("", "x\n", "```\rx\r\n```")]),
    "not_line_ends": (
        "a\x0bb\x0cc\u2028d\x85e\n```\nx\x0cy\u2028z\n```\n",
        [("", "x\x0cy\u2028z\n", "```\nx\x0cy\u2028z\n```")],
    ),
    "wide_characters": ("é😀\n```py\n'😀'\n```\né", [("python", "'😀'\n", "```py\n'😀'\n```")]),
    "several": (
        "```py\n1\n```\n```js\n2\n```\n\ntext\n\n~~~sh\n3\n~~~",
        [
            ("python", "1\n", "```py\n1\n```"),
            ("javascript", "2\n", "```js\n2\n```"),
            ("bash", "3\n", "~~~sh\n3\n~~~"),
        ],
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_blocks(name: str) -> None:
    text, expected = TABLE[name]
    found = fenced_blocks(text)
    got = [
        (block.label.language, block.code, text[block.start_pos : block.end_pos]) for block in found
    ]
    assert got == expected
    for block in found:
        assert block.start_pos == 0 or text[block.start_pos - 1] in "\r\n"


@pytest.mark.parametrize(("alias", "language"), ALIASES.items())
def test_language_aliases(alias: str, language: str) -> None:
    for info in (alias, alias.upper(), f"{alias} more words"):
        assert [block.label.language for block in fenced_blocks(f"```{info}\nx\n```")] == [language]


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0`")), max_size=5)


@settings(deadline=None)
@given(st.lists(LINES, min_size=1, max_size=4), st.sampled_from(["\n", "\r\n", "\r"]))
def test_places_are_exact(bodies: list[list[str]], end: str) -> None:
    """Blocks one after the other lie exactly where they were put, whatever is in them."""
    sources = [end.join(["```js", *body, "```"]) for body in bodies]
    text = end.join(sources)
    found = fenced_blocks(text)
    assert [text[block.start_pos : block.end_pos] for block in found] == sources
    assert [block.code for block in found] == ["".join(f"{x}\n" for x in body) for body in bodies]


@pytest.mark.parametrize("text", ["\r" * 500_000, "```\n```\n" * 20_000, "\r\n" * 250_000])
@pytest.mark.timeout(60)
def test_long_texts_take_time_in_proportion(text: str) -> None:
    """Once quadratic: these took from seconds to minutes."""
    assert len(fenced_blocks(text)) == text.count("```\n```")
