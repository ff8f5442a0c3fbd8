"""Syntax is checked without running anything, in bounded time and memory."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mulligan.errors import UnsupportedLanguage
from mulligan.extraction.syntax import SyntaxChecker, check_syntax


@pytest.fixture(scope="module")
def checker() -> Iterator[SyntaxChecker]:
    with SyntaxChecker() as made:
        yield made


VALID = {
    "python": ["", "x = 1", "async def f():\n    await g()\n", "match x:\n    case 1: pass\n"],
    "py": ["print('\u00e9')"],
    "javascript": ["", "const f = async (a) => { await a?.b ?? 1; };", "import x from 'y';"],
    "bash": ["for i in 1 2; do echo $i; done", "cat <<E\nx\nE\n", "[[ -f x ]] && echo $((1+2))"],
    "rust": ["", "fn main() { println!(\"{}\", 1); }", "struct A<'a>(&'a str);"],
}  # fmt: skip


@pytest.mark.parametrize(("language", "code"), [(k, c) for k, v in VALID.items() for c in v])
def test_valid(checker: SyntaxChecker, language: str, code: str) -> None:
    assert checker.check(code, language) == []


# Language, code, and line and column of the first problem
INVALID = [
    ("python", "x = 1\nif x\n    y", 2, 5),
    ("python", "é = (\n", 1, 5),
    ("python", "return 1", 1, 1),
    ("python", "a = 1\nb = '\0'", 2, 6),
    ("python", "\ud800", 1, 1),
    ("javascript", "const a = 1;\nconst b = ;", 2, 9),
    ("javascript", "é(]", 1, 1),
    ("bash", "echo 'a", 1, 5),
    ("bash", "if true; then\necho", 1, 1),
    ("rust", "fn main() { let x = ; }", 1, 19),
]


@pytest.mark.parametrize(("language", "code", "line", "column"), INVALID)
def test_invalid(checker: SyntaxChecker, language: str, code: str, line: int, column: int) -> None:
    first = checker.check(code, language)[0]
    assert (first.line, first.column) == (line, column)
    assert first.message
    assert "\n" not in first.message


HOSTILE = {
    "parentheses": "(" * 1_000_000,
    "minus": "-" * 1_000_000 + "1",
    "sum": "1" + "+1" * 300_000,
    "attributes": "a" + ".b" * 300_000,
    "calls": "f" + "()" * 200_000,
    "one_line": "x" * 1_000_000,
    "elif": "if 1: pass\n" + "elif 1: pass\n" * 50_000,
    "nulls": "\0" * 1_000_000,
    "less": "<" * 1_000_000,
    "substitution": '"$(' * 200_000,
    "digits": "9" * 1_000_000,
    "power": "(1 << 60) ** (1 << 30)",
    "too_long": "x = 1\n" * 1_000_000,
}


@pytest.mark.parametrize("language", ["python", "javascript", "bash", "rust"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(checker: SyntaxChecker, name: str, language: str) -> None:
    found = checker.check(HOSTILE[name], language)
    assert len(found) <= 10
    assert checker.check("x = 1", "python") == []  # it goes on


def test_nothing_is_run(checker: SyntaxChecker, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    assert checker.check(f"open({str(mark)!r}, 'w')", "python") == []
    assert checker.check(f"touch {mark}", "bash") == []
    assert not mark.exists()


def test_other_languages_are_refused() -> None:
    with pytest.raises(UnsupportedLanguage, match="cobol"):
        check_syntax("x", "cobol")


def test_no_process_is_left() -> None:
    with SyntaxChecker() as made:
        made.check("x", "python")
        assert made._process is not None
        pid = made._process.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_died_is_replaced() -> None:
    with SyntaxChecker() as made:
        made.check("x", "python")
        assert made._process is not None
        made._process.kill()
        made._process.wait()
        assert made.check("x = 1", "python") == []


def test_what_only_a_kernel_s_cell_may_do() -> None:
    with SyntaxChecker() as checker:
        code = "import asyncio\nawait asyncio.sleep(0)\n"
        assert checker.check(code, "python", True) == []
        assert checker.check(code, "python")[0].line == 2
        assert checker.check("return 1", "python", True)


def test_a_byte_order_mark_is_no_error() -> None:
    with SyntaxChecker() as checker:
        assert checker.check("\ufeffprint(1)", "python") == []
        assert checker.check("\ufefflet a = 1", "javascript") == []
