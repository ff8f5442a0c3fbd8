"""What the dangerous-pattern rules block, beside the seed's own patterns, and how long they take.

    python -m bench.policy_dangerous [FILE ...]

FILE: a table of code in ``tests/policy/data``, in the form of ``tests/support/code_cases.py``;
without one, all that are there. Nothing is executed.
"""

import re
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from mulligan.policy.dangerous import judge, load_rules  # noqa: E402
from support.code_cases import Case, cases  # noqa: E402

# The patterns of DangerousPatternHook in hooks.rs of the system whose wire format Mulligan speaks;
# they are held against the lower-cased code.
SEED = [
    re.compile(pattern)
    for pattern in (
        r"rm\s+-rf",
        r"format\s+c:",
        r"mkfs\.",
        r"dd\s+if=",
        r":\(\)\{\s*:\|:&\s*\}",
        r"curl.*\|.*sh",
        r"wget.*\|.*sh",
    )
]
RULES = load_rules()
HARMLESS = ("lookalike", "benign")
ROUNDS = 30
TABLES = {
    "first table": ("dangerous_malicious.txt", "dangerous_harmless.txt"),
    "second table": ("dangerous_malicious_2.txt", "dangerous_harmless_2.txt"),
    "third table": ("dangerous_3.txt",),
}


def ours(case: Case) -> bool:
    return any(f.decision == "block" for f in judge(case.code, case.language, RULES))


def seeds(case: Case) -> bool:
    return any(pattern.search(case.code.lower()) for pattern in SEED)


def share(found: list[bool]) -> str:
    if not found:
        return "-"
    return f"{100 * sum(found) / len(found):5.1f} % of {len(found)}"


def table(title: str, found: list[Case]) -> None:
    judged: dict[tuple[str, bool], list[tuple[bool, bool]]] = defaultdict(list)
    for case in found:
        judged[case.group, case.kind in HARMLESS].append((ours(case), seeds(case)))
    print(f"\n{title}\n{'group':18}{'blocked':18}{'seed':18}{'harmless blocked':18}{'seed':18}")
    for group in [*sorted({group for group, _ in judged}), "all"]:
        columns = []
        for harmless in (False, True):
            rows = [
                row
                for (of, kind), some in judged.items()
                if kind is harmless and group in (of, "all")
                for row in some
            ]
            columns += [share([row[0] for row in rows]), share([row[1] for row in rows])]
        print(f"{group:18}" + "".join(f"{column:18}" for column in columns))


def program(language: str) -> str:
    """A harmless program of a hundred lines: those of the tables, one after the other."""
    lines: list[str] = []
    for case in cases("dangerous_harmless.txt"):
        if case.language == language and "\n" in case.code:
            lines += [line for line in case.code.split("\n") if line.strip()]
    return "\n".join(lines[:100])


def speed() -> None:
    print("\na program of 100 lines, processor milliseconds (median, fastest of", ROUNDS, "rounds)")
    for language in ("bash", "python", "javascript"):
        code = program(language)
        times = []
        for _ in range(ROUNDS):
            start = time.process_time()
            judge(code, language, RULES)
            times.append((time.process_time() - start) * 1000)
        lines = code.count("\n") + 1
        print(f"{language:12}{statistics.median(times):7.2f}{min(times):7.2f}   {lines} lines")


def main() -> None:
    if sys.argv[1:]:
        table(" ".join(sys.argv[1:]), [case for name in sys.argv[1:] for case in cases(name)])
    else:
        for title, names in TABLES.items():
            table(title, [case for name in names for case in cases(name)])
    speed()


if __name__ == "__main__":
    main()
