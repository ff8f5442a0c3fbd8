"""Findings say where, and what was met."""

import pytest

from mulligan.policy.dangerous import judge, load_rules

RULES = load_rules()

# language, code, line, column, excerpt
PLACES = {
    "first": ("bash", "rm -rf /", 1, 1, "rm -rf /"),
    "later": ("bash", "echo a\n  true && rm -rf / # x\n", 2, 11, "rm -rf /"),
    "wide characters": ("bash", "echo é😀; rm -rf /", 1, 10, "rm -rf /"),
    "inside a string of bash": ("bash", "x\nbash -c 'echo; rm -rf /'", 2, 1, "rm -rf /"),
    "redirection": ("bash", "echo x > /etc/passwd", 1, 8, "> /etc/passwd"),
    "python": ("python", "import os\nif 1:\n    os.system('rm -rf /')", 3, 5, "rm -rf /"),
    "python, wide": ("python", "import os\nx='é'; os.system('rm -rf /')", 2, 8, "rm -rf /"),
    "python call": (
        "python",
        "import shutil\n\nshutil.rmtree('/')",
        3,
        1,
        "shutil.rmtree('/')",
    ),
    "called later": (
        "python",
        "import os\ndef f(c):\n    os.system(c)\nf('rm -rf /')",
        3,
        5,
        "rm -rf /",
    ),
    "javascript": ("javascript", "const f=1;\nrequire('fs').rmSync('/',{recursive:1})", 2, 1, None),
    "rust": (
        "rust",
        'fn main() {\n  std::fs::remove_dir_all("/").unwrap();\n}',
        2,
        3,
        'std::fs::remove_dir_all("/")',
    ),
    "null bytes": ("bash", "r\0m -rf /", 1, 1, "rm -rf /"),
}


@pytest.mark.parametrize("name", PLACES)
def test_places(name: str) -> None:
    language, code, line, column, excerpt = PLACES[name]
    (finding,) = judge(code, language, RULES)
    assert (finding.line, finding.column) == (line, column)
    if excerpt is not None:
        assert finding.excerpt == excerpt
    assert finding.rule in RULES.data.rules
    assert finding.reason == RULES.data.rules[finding.rule].reason


def test_excerpts_are_one_bounded_line() -> None:
    (finding,) = judge("rm -rf / \\\n" + "x" * 500, "bash", RULES)
    assert len(finding.excerpt) <= 160
    assert "\n" not in finding.excerpt
    assert finding.excerpt.endswith("…")


def test_findings_are_in_the_order_of_the_text() -> None:
    found = judge("reboot\nkill -9 -1\nrm -rf /", "bash", RULES)
    assert [finding.line for finding in found] == [1, 2, 3]


def test_many_findings_are_bounded() -> None:
    assert len(judge("rm -rf /\n" * 1000, "bash", RULES)) <= 50


@pytest.mark.parametrize("language", ["sh", "shell", "BASH", "cobol"])
def test_names_of_languages(language: str) -> None:
    assert judge("rm -rf /", language, RULES)
