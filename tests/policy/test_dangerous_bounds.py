"""Whatever is given, the judge ends, raises nothing, and passes nothing that it cannot read."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.policy.dangerous import judge, load_rules
from mulligan.policy.dangerous.judge import TOO_HARD

RULES = load_rules()

TOO_MUCH = {
    "size": ("bash", "a " * 200_000),
    "tokens": ("bash", "a " * 120_000),
    "pipes": ("bash", "a|" * 50_000),
    "nested if": ("bash", "if a; then " * 2000 + "b" + "; fi" * 2000),
    "nested eval": ("bash", "eval " + "'" + "eval " * 40 + "echo '" + "$(" * 200 + "a" + ")" * 200),
    "python brackets": ("python", "(" * 150 + ")" * 150),
    "python calls": ("python", "a" + "()" * 20_000),
    "python minus": ("python", "-" * 100_000 + "1"),
    "python lambda": ("python", "lambda:" * 30_000 + "1"),
    "javascript brackets": ("javascript", "[" * 2000 + "]" * 2000),
    "javascript chain": ("javascript", "a" + ".b" * 60_000),
    "rust blocks": ("rust", "fn f()" + "{" * 2000 + "}" * 2000),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_cannot_be_judged_is_blocked(name: str) -> None:
    language, code = TOO_MUCH[name]
    found = judge(code, language, RULES)
    assert TOO_HARD in {finding.rule for finding in found}
    assert {finding.decision for finding in found if finding.rule == TOO_HARD} == {"block"}
    assert all(len(finding.excerpt) <= 160 for finding in found)


ENDS = {
    "brackets of bash": ("bash", "(" * 60_000),
    "substitutions": ("bash", "echo " + "$(" * 60_000),
    "backticks": ("bash", "`" * 60_000),
    "braces": ("bash", "{a,b}" * 3000),
    "here-documents": ("bash", "cat <<E\n" * 20_000),
    "doubling": ("bash", "x=a;" + "x=$x$x;" * 60 + "echo $x"),
    "loops": ("bash", "for a in 1 2 3 4 5 6 7 8; do " * 8 + "echo x;" + "done;" * 8),
    "calls": ("bash", "".join(f"f{i}(){{ f{i + 1}; f{i + 1}; }}\n" for i in range(200)) + "f0"),
    "null bytes": ("bash", "\0" * 200_000),
    "a pattern": ("bash", "x=" + "a" * 50_000 + "; echo ${x%%*b*c}"),
    "elif": ("python", "if a: pass\n" + "elif a: pass\n" * 15_000),
    "sum": ("python", "+".join(["'a'"] * 50_000)),
    "power": ("python", "x = 10 ** 10 ** 10 ** 10"),
    "doubling in python": ("python", "x = 'a'\n" + "x = x + x\n" * 60),
    "itself": ("python", "import os\nx = []\nx.append(x)\nos.system(x)"),
    "calls in python": (
        "python",
        "".join(f"def f{i}(x):\n f{i + 1}(x); f{i + 1}(x)\n" for i in range(2000)) + "f0(1)",
    ),
    "faults": ("python", "x = = 1\n" * 5000),
    "packed": (
        "python",
        "import zlib, base64\nexec(zlib.decompress(base64.b64decode('" + "eJzt" * 30_000 + "')))",
    ),
    "chain of javascript": ("javascript", "p" + ".then(r => r)" * 20_000),
    "quotes of javascript": ("javascript", '"' * 100_000),
    "generics": ("rust", "a::<" * 20_000),
}


@pytest.mark.parametrize("name", ENDS)
def test_it_ends(name: str) -> None:
    language, code = ENDS[name]
    assert all(finding.excerpt is not None for finding in judge(code, language, RULES))


LANGUAGES = st.sampled_from(["bash", "python", "javascript", "rust"])
PIECES = st.sampled_from(
    ["rm ", "-rf ", "/ ", "$x", "${x", "}", "$(", ")", "`", "'", '"', "\\", "\n", ";", "|", "&",
     ">", "<", "<<E\n", "E\n", "(", "{", "[", "]", "=", "f", "() ", "if ", "then ", "fi",
     "do ", "done",
     "for ", "in ", "while ", "import os\n", "os.system(", "x", "def ", ":", "    ", "lambda ", ",",
     "require(", "=>", "function ", "`${", "eval ", "é", "😀", "\0", "\ue000", "\ud800", "#",
     "*", "%s",
     "fn ", "let ", "::", "~", "!", "$'\\x", "{a,b}", "1", "."]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PIECES, max_size=60).map("".join),
    st.sampled_from(["bash", "python", "javascript", "rust"]),
)
def test_any_text_is_judged(code: str, language: str) -> None:
    for finding in judge(code, language, RULES):
        assert finding.line >= 1
        assert finding.column >= 1
        assert finding.decision in ("block", "ask")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), LANGUAGES)
def test_any_bytes_are_judged(data: bytes, language: str) -> None:
    judge(data.decode("utf-8", "replace"), language, RULES)
    judge(data.decode("latin-1"), language, RULES)
