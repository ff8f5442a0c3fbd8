"""Code blocks of answers: language, code, place, and what is said about them."""

import json
from pathlib import Path

import pytest

from mulligan.extraction import detect_execution_intent, extract
from mulligan.extraction.features import FEATURES
from mulligan.extraction.labels import read_label
from mulligan.models import CodeBlock

ANSWERS = Path(__file__).parents[1] / "data" / "answers"
LABELS = json.loads((ANSWERS / "labels.json").read_text())


def only(text: str) -> CodeBlock:
    (block,) = extract(text)
    return block


# Info string: language, whether it says a session was recorded, the file it names
INFO = {
    "": ("", False, None),
    "py": ("python", False, None),
    "Python3": ("python", False, None),
    "python3.12": ("python", False, None),
    "{python}": ("python", False, None),
    "{.python .numberLines}": ("python", False, None),
    "{code-cell} ipython3": ("python", False, None),
    'python title="x"': ("python", False, None),
    "python{1,3}": ("python", False, None),
    "language-js": ("javascript", False, None),
    "node.js": ("javascript", False, None),
    "rust,ignore": ("rust", False, None),
    "shell": ("bash", False, None),
    "console": ("bash", True, None),
    "shell-session": ("bash", True, None),
    "pycon": ("python", True, None),
    "python:src/a.py": ("python", False, "src/a.py"),
    "src/main.rs": ("rust", False, "src/main.rs"),
    "12:30:app/views.py": ("python", False, "12:30:app/views.py"),
    "COBOL": ("cobol", False, None),
    "c++": ("c++", False, None),
    "asp.net": ("asp.net", False, None),
    "{}": ("", False, None),
}


@pytest.mark.parametrize("info", INFO)
def test_info_strings(info: str) -> None:
    label = read_label(info)
    assert (label.language, label.transcript, label.path) == INFO[info]


# A block without an info string: the language it is taken to be in
GUESSES = {
    "import os\nprint(os.getcwd())": "python",
    "def f(x):\n    return x\n\nprint(f(1))": "python",
    "const a = [1, 2];\nconsole.log(a.map((x) => x * 2));": "javascript",
    'fn main() {\n    println!("{}", 1);\n}': "rust",
    "ls -la\ncd /tmp && mkdir x": "bash",
    "#!/usr/bin/env node\nrun()": "javascript",
    "$ ls\na b": "bash",
    ">>> 1 + 1\n2": "python",
    '{"a": [1, 2]}': "json",
    "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b": "diff",
    'Traceback (most recent call last):\n  File "a.py", line 1\nNameError: x': "text",
    "SELECT 1;": "text",
    "#include <stdio.h>\nint main(void) { return 0; }": "text",
    "the quick brown fox": "text",
    "42": "text",
}


@pytest.mark.parametrize("code", GUESSES)
def test_languages_are_guessed(code: str) -> None:
    block = only(f"```\n{code}\n```")
    assert block.language == GUESSES[code]
    assert block.metadata["language_source"] != "info"


def test_a_guess_is_less_sure_than_a_name() -> None:
    code = "import os\nprint(os.getcwd())\n"
    guessed, named = only(f"```\n{code}```"), only(f"```python\n{code}```")
    assert guessed.language == named.language
    assert guessed.execution_confidence < named.execution_confidence


# Language, what was recorded, and the commands in it
SESSIONS = {
    "output": ("console", "$ ls\na\nb\n$ pwd\n/x", "ls\npwd\n"),
    "output_first": ("console", "Welcome\n$ ls\na", "ls\n"),
    "prompts": ("bash-session", "me@box:~/src$ ls\nx\n(venv) $ pwd\nbash-5.2$ id", "ls\npwd\nid\n"),
    "root": ("console", "# apt list\nx\n# id", "apt list\nid\n"),
    "comment_in_bash": ("bash", "# lists\nls", "# lists\nls\n"),
    "dollar_in_bash": ("bash", "$ ls\nfile", "ls\n"),
    "backslash": ("console", "$ ls \\\n  -l \\\n> -a\nx", "ls \\\n  -l \\\n-a\n"),
    "second_prompt": ("console", "$ for i in 1 2; do\n> echo $i\n> done\n1\n2", None),
    "diff_output": ("console", "$ diff a b\n1c1\n< x\n---\n> y\n$ ls", "diff a b\nls\n"),
    "here": ("console", "$ cat <<EOF\nhi\nEOF\nhi\n$ ls", "cat <<EOF\nhi\nEOF\nls\n"),
    "here_second_prompt": ("console", "$ cat <<E\n> hi\n> E\nhi", "cat <<E\nhi\nE\n"),
    "shift": ("console", "$ echo $((1 << n))\n4\n$ ls", "echo $((1 << n))\nls\n"),
    "python": ("pycon", ">>> x = 1\n>>> x\n1\n", "x = 1\nx\n"),
    "python_more": ("python", ">>> if 1:\n...     print(2)\n...\n2", "if 1:\n    print(2)\n\n"),
    "ipython": ("python", "In [1]: x = 2\nIn [2]: x\nOut[2]: 2", "x = 2\nx\n"),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions_give_their_commands(name: str) -> None:
    info, recorded, typed = SESSIONS[name]
    block = only(f"```{info}\n{recorded}\n```")
    assert block.code == (typed or "for i in 1 2; do\necho $i\ndone\n")
    assert block.language == ("python" if "py" in info else "bash")
    assert block.metadata.get("transcript", False) == (name != "comment_in_bash")


# A line of prose, and the command that is found on it
INLINE = {
    'python3 -c "print(1)"': 'python3 -c "print(1)"',
    "`node -e 'console.log(1)'`": "node -e 'console.log(1)'",
    "- ``python3 -c 'print(2)'``": "python3 -c 'print(2)'",
    "> $ bash -c 'ls | wc -l'": "bash -c 'ls | wc -l'",
    "`python3 app.py --port 80`": "python3 app.py --port 80",
    "cargo run --release": "cargo run --release",
    "python -m http.server 8000": "python -m http.server 8000",
    "python is a language -c and more": None,
    "node processes are cheap.": None,
    "bash scripts can do this": None,
    "python setup.py and then wait for it": None,
    "cargo run is the command": None,
    "Run `python3 -c 'print(1)'` to see it": None,
    "python3 -c print it and see": None,
    'python3 -c "print(1)': None,
    "x = compute(y)": None,
    "python3": None,
}


@pytest.mark.parametrize("line", INLINE)
def test_inline_commands(line: str) -> None:
    text = f"You could do it so:\r\n{line}\r\nThat is all."
    found = [(block.language, block.code) for block in extract(text)]
    assert found == ([("bash", INLINE[line])] if INLINE[line] else [])
    for block in extract(text):
        assert text[block.start_pos : block.end_pos] == block.code
        assert block.metadata["type"] == "inline"


def test_a_command_in_a_block_is_not_found_twice() -> None:
    assert only("```sh\npython3 -c 'print(1)'\n```").metadata["type"] == "fenced"


def test_places() -> None:
    text = "é😀\r\n\r\n> ```py\r\n> x = '😀'\r\n> ```\r\nrest"
    block = only(text)
    assert text[block.start_pos : block.end_pos] == "> ```py\r\n> x = '😀'\r\n> ```"
    assert block.code == "x = '😀'\n"
    seen = block.metadata
    assert text[seen["code_start"] : seen["code_end"]] == "> x = '😀'\r\n"
    assert text.encode()[seen["start_byte"] : seen["end_byte"]].decode().startswith("> ```py")
    assert (seen["line"], seen["line_ending"], seen["closed"]) == (3, "crlf", True)


def test_code_under_html_counts() -> None:
    block = only("<details>\n<summary>x</summary>\n```py\nprint(1)\n```\n</details>\n")
    assert (block.code, block.metadata["under_html"]) == ("print(1)\n", True)
    assert extract("<!--\n```py\nprint(1)\n```\n-->\n") == []


# What is in the block, which goes on beyond an inner fence
NESTED = {
    "python": 'R = """\n```sh\nmake\n```\n"""\nprint(R)\n',
    "bash": "cat > R.md <<'EOF'\n```sh\nmake\n```\nEOF\ncat R.md\n",
    "rust": 'fn main() {\nprintln!(r#"\n```\nx\n```\n"#);\n}\n',
    "markdown": "# A\n```sh\nmake\n```\nmore\n",
}


@pytest.mark.parametrize("language", NESTED)
@pytest.mark.parametrize("prefix", ["", "   ", "> "])
def test_a_fence_in_a_string_does_not_close(language: str, prefix: str) -> None:
    source = f"```{language}\n{NESTED[language]}```\n"
    text = "".join(f"{prefix}{line}" for line in source.splitlines(keepends=True))
    first, second = extract(f"{text}\nand\n\n```py\nprint(2)\n```\n")
    assert (first.language, first.code, second.code) == (language, NESTED[language], "print(2)\n")
    assert first.metadata["nested"] is True


def test_a_string_that_nothing_ends_is_closed_by_the_first_fence() -> None:
    first, second = extract("```py\nx = '''\n```\nprose\n\n```py\nprint(1)\n```\n")
    assert (first.code, second.code) == ("x = '''\n", "print(1)\n")
    assert first.execution_confidence < 0.5 < second.execution_confidence


DRAFTS = {
    "leading": "<think>\n```py\nprint(1)\n```\n</think>\n\n```py\nprint(2)\n```",
    "open_fence": "<think>\nSo\n```py\nprint(1)\n</think>\n\n```py\nprint(2)\n```",
    "no_first_tag": "Maybe\n\n```py\nprint(1)\n```\n</think>\n\n```py\nprint(2)\n```",
    "thinking": "Hi.\n\n<thinking>\n```py\nprint(1)\n```\n</thinking>\n\n```py\nprint(2)\n```",
}


@pytest.mark.parametrize("name", DRAFTS)
def test_drafts_are_not_offered(name: str) -> None:
    draft, answer = extract(DRAFTS[name])
    assert draft.metadata["draft"]
    assert draft.execution_confidence <= FEATURES["draft"].ceiling
    assert (answer.code, "draft" in answer.metadata) == ("print(2)\n", False)
    assert answer.execution_confidence >= 0.7


@pytest.mark.parametrize(
    "text",
    [
        "```html\n<think>\nx\n</think>\n```\n\n```py\nprint(2)\n```",
        "```py\nprint('</think>')\n```\n\n```py\nprint(2)\n```",
        "I think <think> is a tag.\n\n```py\nprint(1)\n```\n\n```py\nprint(2)\n```",
    ],
)
def test_tags_that_are_no_draft(text: str) -> None:
    assert not any("draft" in block.metadata for block in extract(text))


# What is around `print(6 * 7)`, and whether it is to be run
AROUND = {
    "Let me compute it:\n\n{}": True,
    "Run this:\n\n{}": True,
    "{}": True,
    "Don't run this:\n\n{}": False,
    "Don\u2019t ever execute the following:\n\n{}": False,
    "This is for illustration only.\n\n{}": False,
    "Output:\n\n{}": False,
    "Add this to your settings:\n\n{}": False,
    "For example:\n\n{}": False,
    "Before:\n\n{}": False,
    'Create a new file called "area.py" with this content:\n\n{}': False,
    "A program for this could be:\n\n{}": True,
    "It could be used like this\n\n{}": False,
}


@pytest.mark.parametrize("text", AROUND)
def test_what_is_said_around(text: str) -> None:
    block = only(text.format("```python\nprint(6 * 7)\n```\n"))
    assert (block.execution_confidence >= 0.7) == AROUND[text], block.metadata["features"]


# What is between two blocks, and which of them it forbids
BETWEEN = {
    "Do not run the following:": (True, False),
    "Do not run this:": (True, False),
    "It prints 42.\n\nWarning: never execute the next script.": (True, False),
    "It prints 42.\n\nDon't run this on anything of yours!\n\nThe command is": (True, False),
    "Do not run the script above. Run this instead:": (False, True),
    "Do not run this one.\n\nRun this one now:": (False, True),
    "Here it goes.\n\nDo not run the previous version. Run this:": (True, True),
    "Never run this.": (False, False),  # it may be about either
    "It prints 42. Never run `rm -rf /`, though.\n\nRun this:": (True, True),
    "It is done. Do not run anything above.\n\nRun this:": (False, True),
}


@pytest.mark.parametrize("text", BETWEEN)
def test_what_is_said_between_two_blocks(text: str) -> None:
    code = "```python\nprint(6 * 7)\n```\n"
    found = extract(f"Run this:\n\n{code}\n{text}\n\n{code}")
    assert tuple(each.execution_confidence >= 0.7 for each in found) == BETWEEN[text]


# Code that is not to be run whatever is said, and why
NEVER = {
    "placeholders": ("python", 'print("YOUR_API_KEY")'),
    "left_out": ("python", "for x in [1]:\n    ...\nprint(x)"),
    "does_not_parse": ("python", "print(1"),
    "unknown_names": ("python", "print(df.head())"),
    "only_definitions": ("python", "def f():\n    return 1"),
    "empty": ("python", "# nothing"),
    "data": ("python", '{"a": 1}'),
    "other_language": ("go", 'fmt.Println("x")'),
    "marked_not_to_run": ("rust,no_run", "fn main() { println!(); }"),
    "waits_for_input": ("python", "print(input())"),
    "serves_forever": ("javascript", "require('http').createServer().listen(80)"),
    "needs_outside": ("bash", "curl -s localhost | head"),
    "changes_a_machine": ("bash", "pip install requests"),
    "usage_line": ("bash", "python convert.py --help"),
    "output": ("bash", "-rw-r--r-- 1 me me 0 a\n-rw-r--r-- 1 me me 0 b"),
    "not_parsed": ("python", "print(1)\n" * 2000),
    "cut_off": ("python", None),
    "body_not_indented": ("python", "def half(n):\nreturn n / 2\nprint(half(3))"),
}
# Code that is to be run if it says so, though it looks a little like what is not
STILL = [
    'print(len("me@example.com"), len("me@mail.example.org"))',
    "def my_filter(xs):\n    return xs\nprint(my_filter([1]))",
    "total = 0\nfor n in range(9):  # skip the rest of the numbers\n    total += n\nprint(total)",
]
SIDE_BY_SIDE = "### Python\n\n```python\nprint(1)\n```\n\n### {}\n\n```{}\nconsole.log(1)\n```\n"


@pytest.mark.parametrize("feature", NEVER)
def test_what_is_never_sure(feature: str) -> None:
    info, code = NEVER[feature]
    end = "\n```" if code else ""
    block = only(f"Let me run this:\n\n```{info}\n{code or 'print(1)'}{end}")
    assert feature in block.metadata["features"] or feature == "body_not_indented"
    assert block.execution_confidence < 0.7


@pytest.mark.parametrize("code", STILL)
def test_what_is_still_sure(code: str) -> None:
    assert only(f"Let me run this:\n\n```python\n{code}\n```").execution_confidence >= 0.7


def test_the_same_in_several_languages_is_shown() -> None:
    beside = extract(SIDE_BY_SIDE.format("JavaScript", "javascript"))
    assert [block.execution_confidence >= 0.7 for block in beside] == [False, False]
    assert extract("### Python\n\n```python\nprint(1)\n```\n")[0].execution_confidence >= 0.7


def test_more_blocks_than_are_read() -> None:
    blocks = extract("```py\nprint(1)\n```\n" * 300)
    assert len(blocks) == 300
    assert blocks[0].execution_confidence > 0.7
    assert blocks[-1].execution_confidence == 0.0
    assert "too_many" in blocks[-1].metadata["features"]


@pytest.mark.parametrize("half", LABELS)
def test_labelled_answers(half: str) -> None:
    """The labels belong to the blocks that are found; how many are judged rightly is measured by
    ``bench.policy_extraction``, and does not fall below what it is known to be."""
    right = wrong = missed = 0
    for name, labels in LABELS[half].items():
        blocks = extract((ANSWERS / f"{name}.md").read_bytes().decode())
        firsts = [next((x for x in block.code.split("\n") if x.strip()), "") for block in blocks]
        assert firsts == [first for _, first in labels], name
        for (label, _), block in zip(labels, blocks, strict=True):
            run = block.execution_confidence >= 0.7
            right += run and label == "run"
            wrong += run and label == "show"
            missed += not run and label == "run"
    assert right / (right + wrong) >= 0.95
    assert right / (right + missed) >= 0.9


INTENTS = {
    "Please run this and show me the output.": (0.8, 1.0, "High confidence - auto-execute"),
    "Could you calculate the total?\n\n```py\n1\n```": (0.5, 0.8, "Medium confidence - ask user"),
    "Does this work?\n\n```py\n1\n```": (0.2, 0.5, "Low confidence - show code only"),
    "The executive committee ran a test of patience.": (0, 0.2, "No execution intent detected"),
    "Don't run this yet, please.": (0, 0.1, "No execution intent detected"),
    "```py\n# please run this, can you run it\n```": (0, 0.1, "No execution intent detected"),
    "<think>\nlet me run this, please run\n</think>\nNo.": (0, 0, "No execution intent detected"),
}


@pytest.mark.parametrize("text", INTENTS)
def test_intent(text: str) -> None:
    least, most, action = INTENTS[text]
    intent = detect_execution_intent(text)
    assert least <= intent.confidence <= most
    assert intent.suggested_action == action
    assert bool(intent.trigger_keywords) == (least >= 0.5 or text.startswith("Don't"))


def test_the_documented_table_is_the_one_in_force() -> None:
    document = (Path(__file__).parents[2] / "docs" / "extraction.md").read_text()
    for name, row in FEATURES.items():
        assert f"| `{name}` |" in document
        assert f"| {row.meaning} |" in document
