"""How well blocks to be run are told from blocks to be shown, ours beside the seed's rules.

The answers and their labels are in ``tests/data/answers``. Mistakes in the half ``fit`` may be
looked at to change the weights of ``FEATURES`` (``--mistakes``), those in ``held_back`` may not.
The seed's rules are those of its ``code_extractor.rs``, written anew here to
compare with. ``--write`` puts the tables into docs/extraction.md.
"""

import json
import re
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mulligan.extraction import extract
from mulligan.extraction.features import FEATURES

ROOT = Path(__file__).parent.parent
ANSWERS = ROOT / "tests" / "data" / "answers"
THRESHOLD = 0.7
Judged = tuple[str, float]  # the first line of a block's code, and its confidence

SEED_FENCE = re.compile(r"```(\w+)?\n([\s\S]*?)\n```")
SEED_INLINE = [
    (re.compile(r"^python3?\s+(.+)$", re.MULTILINE), "python"),
    (re.compile(r"^node\s+(.+)$", re.MULTILINE), "javascript"),
    (re.compile(r"^bash\s+(.+)$", re.MULTILINE), "bash"),
    (re.compile(r"^cargo\s+run\s*(.*)$", re.MULTILINE), "rust"),
    (re.compile(r"^(\w+\s*=\s*.+)$", re.MULTILINE), "python"),
]
SEED_INTENT = re.compile(
    r"(run|execute|try)\s+(this|the|it)|(can|could|would)\s+you\s+(run|execute|try)"
    r"|(test|check|verify)\s+(this|the)\s+code|(what\s+happens|what\s+would\s+happen)\s+if"
    r"|(does|will)\s+(this|it)\s+(work|run)",
    re.IGNORECASE,
)
SEED_BASE = {"python": 0.4, "javascript": 0.4, "bash": 0.4, "rust": 0.3, "go": 0.3, "java": 0.3}


def seed(text: str) -> Iterator[Judged]:
    """The seed's fenced and inline blocks."""
    for found in SEED_FENCE.finditer(text):
        code = found[2]
        if len(code.strip()) >= 3:
            language = (found[1] or "text").lower()
            yield first_line(code), seed_confidence(language, code, text, found.start())
    for pattern, language in SEED_INLINE:
        for found in pattern.finditer(text):
            code = found[1]
            confidence = seed_confidence(language, code, text, found.start(1))
            if len(code.strip()) >= 5 and confidence > 0.3:
                yield first_line(code), confidence


def seed_confidence(language: str, code: str, text: str, position: int) -> float:
    plain = 0.1 if language in ("text", "plaintext") else 0.2
    confidence = SEED_BASE.get(language, plain)
    confidence += 0.2 * (1 < len(code.splitlines()) < 50)
    confidence += 0.1 * any(word in code for word in ("def ", "function ", "fn "))
    confidence += 0.1 * any(word in code for word in ("import ", "require(", "use "))
    context = text[max(position - 200, 0) : position + 200]
    confidence += 0.2 * bool(SEED_INTENT.search(context))
    confidence += 0.1 * any(word in context.lower() for word in ("run", "execute", "try"))
    return min(confidence, 1.0)


def ours(text: str) -> Iterator[Judged]:
    return ((first_line(block.code), block.execution_confidence) for block in extract(text))


def first_line(code: str) -> str:
    return next((line for line in code.split("\n") if line.strip()), "")


def score(half: dict[str, list[list[str]]], rules) -> tuple[float, float, list[str]]:
    """Precision and recall of what is run at the threshold, and what is judged wrongly.

    A block that the rules find where there is none counts as run wrongly if it would be run.
    """
    right = wrong = missed = 0
    mistakes = []
    for name, labels in half.items():
        text = (ANSWERS / f"{name}.md").read_bytes().decode()
        wanted = [line for label, line in labels if label == "run"]
        for line, confidence in rules(text):
            if confidence < THRESHOLD:
                continue
            if line in wanted:
                wanted.remove(line)
                right += 1
            else:
                wrong += 1
                mistakes.append(f"{name}: runs at {confidence:.2f}: {line}")
        missed += len(wanted)
        mistakes += [f"{name}: does not run: {line}" for line in wanted]
    return right / max(right + wrong, 1), right / max(right + missed, 1), mistakes


def table() -> Iterable[str]:
    halves = json.loads((ANSWERS / "labels.json").read_text())
    yield f"| what to run, at {THRESHOLD} | blocks | seed's precision, recall | ours |"
    yield "| --- | --- | --- | --- |"
    for name, half in halves.items():
        blocks = sum(len(labels) for labels in half.values())
        run = sum(label == "run" for labels in half.values() for label, _ in labels)
        cells = []
        for rules in (seed, ours):
            precision, recall, _ = score(half, rules)
            cells.append(f"{precision:.1%}, {recall:.1%}")
        yield f"| {name.replace('_', ' ')} | {blocks}, {run} to run | {' | '.join(cells)} |"


def times() -> Iterable[str]:
    """Processor milliseconds for a megabyte: of answers, and of what was made to be slow."""
    answers = [path.read_text() for path in sorted(ANSWERS.glob("*.md"))]
    prose = "It goes on like this for a while, and says the same in other words. " * 12
    usual = "\n\n".join(f"{prose}\n\n{answer}" for answer in answers)
    usual = (usual + "\n\n") * (1_000_000 // len(usual) + 1)
    cases = {
        "answers and prose": usual[:1_000_000],
        "fences": "```\n```\n" * 125_000,
        "nested quotes": (">" * 38 + "\n") * 26_000,
        "list items with fences": "- ```\n  x\n" * 100_000,
        "backticks": "`" * 1_000_000,
        "open strings": '```python\n"""\n```\n' * 50_000,
        "brackets": "[" * 1_000_000,
        "sessions": '```console\n$ echo "a\n> b\n```\n' * 35_000,
        "line ends": "\r\n" * 500_000,
        "code no grammar likes": ("```bash\n" + "<" * 9000 + "\n```\n") * 110,
    }
    yield "| a megabyte of | median processor ms |"
    yield "| --- | --- |"
    for name, text in cases.items():
        taken = []
        for _ in range(5):
            start = time.thread_time()
            extract(text)
            taken.append((time.thread_time() - start) * 1000)
        yield f"| {name} | {statistics.median(taken):.0f} |"


def features() -> Iterable[str]:
    """The table of features, a row each."""
    yield "| feature | weight | ceiling | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, row in FEATURES.items():
        weight = f"{row.weight:+.2f}" if row.weight else ""
        ceiling = f"{row.ceiling:.2f}" if row.ceiling < 1 else ""
        yield f"| `{name}` | {weight} | {ceiling} | {row.meaning} |"


def write(tables: dict[str, list[str]]) -> None:
    """Puts tables between their marks in the document."""
    path = ROOT / "docs" / "extraction.md"
    text = path.read_text()
    for mark, lines in tables.items():
        begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
        before, rest = text.split(begin)
        body = "\n".join(lines)
        text = f"{before}{begin}\n{body}\n{end}{rest.split(end)[1]}"
    path.write_text(text)


def main() -> None:
    if "--mistakes" in sys.argv:
        halves = json.loads((ANSWERS / "labels.json").read_text())
        print("\n".join(score(halves["fit"], ours)[2]))
        return
    tables = {"measured": list(table()), "times": list(times())}
    print("\n".join([*tables["measured"], "", *tables["times"]]))
    if "--write" in sys.argv:
        write(tables | {"features": list(features())})


if __name__ == "__main__":
    main()
