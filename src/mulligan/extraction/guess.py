"""Which language a code block without an info string is in."""

from __future__ import annotations

import json
import re

_MOST = 4000  # characters looked at

_SIGNS: dict[str, re.Pattern[str]] = {
    "python": re.compile(
        r"^[ \t]*(?:def \w+\(|class \w+[(:]|import \w+(?:[ ,.]|$)|from [\w.]+ import |elif |except\b.*:$"
        r"|(?:if|for|while|with|try|else)\b.*:[ \t]*(?:#.*)?$|print\(|@\w+|return\b(?!.*;)|raise \w|assert )"
        r"|^\w+ = (?:\[|\{|\w+\(|[\d\"'])(?!.*;[ \t]*$)|f[\"']",
        re.MULTILINE,
    ),
    "javascript": re.compile(
        r"^[ \t]*(?:const|let|var) [\w{\[]|=>|\bfunction\b\s*\w*\(|\bconsole\.\w+\(|\brequire\(['\"]"
        r"|^import .* from ['\"]|^export (?:default|const|function)|===|\bawait \w|;[ \t]*$",
        re.MULTILINE,
    ),
    "rust": re.compile(
        r"\bfn \w+\s*[(<]|\blet mut\b|\bprintln!|\bvec!\[|^[ \t]*use [\w:]+(?:::|;)|\bimpl\b.*\{|\bpub (?:fn|struct|enum)"
        r"|->\s*\w.*\{|&(?:mut )?(?:str|self)\b|\bSome\(|\.unwrap\(\)|^#\[\w+",
        re.MULTILINE,
    ),
    "bash": re.compile(
        r"^#!.*\b(?:ba|z|da)?sh\b|^[ \t]*(?:\$ )?(?:sudo|echo|cd|ls|mkdir|cat|grep|apt|apt-get|pip3?|npm|npx|git|curl|wget|export|chmod|cp|mv"
        r"|rm|docker|python3?|node|cargo|sed|awk|find|tar|touch|source|set -[a-z]|wc|head|tail|sort|du|df|ps|kill|make|printf|bash|sh"
        r"|rustc|uname|which|seq|for \w+ in .*; ?do|while .*; ?do|if \[|fi|done|then)(?=[ \t;]|$)",
        re.MULTILINE,
    ),
}  # fmt: skip
_OTHER = re.compile(
    r"^\s*(?:#include\b|package \w+;?$|public (?:class|static)|using \w+;|<\?php|<!DOCTYPE|<html|<\w+[ >]"
    r"|SELECT\b|INSERT INTO|CREATE TABLE|UPDATE \w+ SET|ALTER TABLE|WITH \w+ AS|FROM [\w./:-]+$|func \w+\(|apiVersion:|version: )",
    re.IGNORECASE | re.MULTILINE,
)
_DIFF = re.compile(r"^(?:diff --git |--- \S.*\n\+\+\+ |@@ -\d)", re.MULTILINE)
_OUTPUT = re.compile(
    r"^Traceback \(most recent|^\s*File \"[^\"\n]+\", line \d+|^\w*(?:Error|Exception)(?: \[\w+\])?: |^error(?:\[E\d+\])?:|^thread '\S+' panicked"
    r"|^\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d|^total \d+$|^[-dl](?:[r-][w-][xsS-]){3}|^=+ (?:test session|\d+ passed|FAILURES)|^collected \d+ item"
    r"|^(?:PASS|FAIL|ok|FAILED|PASSED)\b|^\s*at \S+ \(.*:\d+:\d+\)|^[+|][-=+| ]{5,}$|^npm (?:ERR|WARN)|^\$?\w+: command not found"
    r"|^\s*Compiling \S+ v\d|^\s*Finished |^test result:|^Successfully installed|^Requirement already",
    re.MULTILINE,
)  # fmt: skip


def is_data(code: str) -> str | None:
    """``json`` or ``diff`` where the code is that; none else."""
    text = code[:_MOST].strip()
    if _DIFF.search(text):
        return "diff"
    if text[:1] in ("{", "[") and len(code) <= _MOST:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return None
        return "json"
    return None


def is_output(code: str) -> bool:
    """Whether much of it looks like what programs print: tracebacks, logs, listings."""
    lines = code[:_MOST].splitlines()
    if not lines:
        return False
    return sum(bool(_OUTPUT.match(line)) for line in lines) * 4 >= len(lines)


def guess(code: str) -> str:
    """The language ``code`` seems to be in: a runnable one, ``json``, ``diff``, or ``text``."""
    text = code[:_MOST]
    first = text.lstrip().split("\n", 1)[0]
    if first.startswith("#!"):
        for word, name in (("python", "python"), ("node", "javascript"), ("sh", "bash")):
            if word in first:
                return name
    data = is_data(code)
    if data:
        return data
    if is_output(code) or _OTHER.search(text):
        return "text"
    lines = [line for line in text.splitlines() if line.strip()]
    scores = {name: sum(bool(sign.search(line)) for line in lines) for name, sign in _SIGNS.items()}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] * 3 >= len(lines) and scores[best] > 0 else "text"
