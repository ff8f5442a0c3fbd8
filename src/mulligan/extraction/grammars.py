"""Syntax trees by tree-sitter, in bounded time."""

from __future__ import annotations

import time
from functools import cache

import tree_sitter_bash
import tree_sitter_javascript
import tree_sitter_python
import tree_sitter_rust
from tree_sitter import Language, Node, Parser, Tree

_GRAMMARS = {
    "python": tree_sitter_python,
    "javascript": tree_sitter_javascript,
    "bash": tree_sitter_bash,
    "rust": tree_sitter_rust,
}
_PIECE = 65536


@cache
def language_of(name: str) -> Language:
    """The grammar of a runnable language."""
    return Language(_GRAMMARS[name].language())


def parse(code: str, language: str, seconds: float) -> Tree | None:
    """The tree of ``code``; none where it would take longer than ``seconds``.

    Args:
        code: the program; offsets in the tree are bytes of its UTF-8.
        language: one of the runnable languages.
        seconds: most processor time it may take, looked at every hundred steps of the parser.
            What others compute meanwhile does not count, so that results do not depend on it.
    """
    source = code.encode("utf-8", "replace")
    end = time.thread_time() + seconds
    # One parser a call: one that was stopped, or is used by two threads, keeps what it had.
    parser = Parser(language_of(language))
    try:
        return parser.parse(
            lambda offset, _point: source[offset : offset + _PIECE],
            progress_callback=lambda _offset, _failed: time.thread_time() > end,
        )
    except ValueError:  # "Parsing failed": it was stopped
        return None


def problems(tree: Tree, most: int) -> list[Node]:
    """The first ``most`` nodes that are errors or were missing, in the order of the code."""
    found: list[Node] = []
    cursor = tree.walk()
    while len(found) < most:
        node = cursor.node
        assert node is not None
        wrong = node.is_error or node.is_missing
        if wrong:
            found.append(node)
        if not wrong and node.has_error and cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return found
    return found
