"""Tables of code: ``### kind group language form``, the code, one case a line or one text."""

from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parents[1] / "policy" / "data"


@dataclass(frozen=True)
class Case:
    """A piece of code: "malicious", "lookalike" or "benign", and of which group."""

    kind: str
    group: str
    language: str
    code: str


def cases(name: str) -> list[Case]:
    """The cases of a table in ``tests/policy/data``."""
    found: list[Case] = []
    for part in ("\n" + (DATA / name).read_text()).split("\n### ")[1:]:
        head, _, body = part.partition("\n")
        kind, group, language, form = head.split()
        codes = [line for line in body.split("\n") if line.strip()] if form == "lines" else [body]
        found += [Case(kind, group, language, code) for code in codes]
    return found
