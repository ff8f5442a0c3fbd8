"""How many secrets the sanitizer removes, what else it touches, and how long it takes.

``python -m bench.policy_secrets``; ``--misses`` lists what went wrong by kind. Beside it stand the
rules of terraphim's OutputSanitizerHook, which blocks an output whole where one matches.
"""

import base64
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

from bench import secret_samples as samples
from mulligan.policy.secrets import InjectedSecret, Sanitizer

COUNT = 4000
SEED_RULES = [
    re.compile(rule)
    for rule in (
        r"(?i)(password|passwd|pwd)\s*[:=]\s*\S+",
        r"(?i)(api[_-]?key|apikey)\s*[:=]\s*\S+",
        r"(?i)(secret|token)\s*[:=]\s*\S+",
        r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Z|a-z]{2,}\b",
    )
]
SANITIZER = Sanitizer()


def removed(value: str, text: str) -> bool:
    """Whether nothing much of a secret is left."""
    out = SANITIZER.redact(text).text
    secret = value.rsplit("/", 1)[-1]
    return not any(secret[i : i + 10] in out for i in range(max(1, len(secret) - 9)))


def seed_blocks(text: str) -> bool:
    """Whether one of the seed's rules matches."""
    return any(rule.search(text) for rule in SEED_RULES)


def program_outputs() -> list[str]:
    """Outputs of programs there are: this project's and the interpreter's own texts, in parts."""
    files = sorted(Path(__file__).parent.parent.rglob("*.py"))
    files += sorted(Path(re.__file__).parent.parent.glob("*.py"))[:100]
    texts = [file.read_text(errors="replace") for file in files]
    return [text[i : i + 4000] for text in texts for i in range(0, len(text), 4000)]


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def rates(*, held: bool, misses: bool) -> list[tuple[str, str, str]]:
    """(what, the seed's, ours) for one part of the data."""
    rng = random.Random(f"secrets {held}")
    rows = []
    makers = {"secrets in context removed": samples.secrets, "bare values removed": samples.bare}
    for name, make in makers.items():
        data = make(rng, COUNT, held=held)
        wrong = [(kind, text) for kind, value, text in data if not removed(value, text)]
        seed = sum(seed_blocks(text) for _, _, text in data)
        rows.append((name, share(seed, COUNT), share(COUNT - len(wrong), COUNT)))
        if misses:
            tell(name, wrong)
    alike = samples.look_alikes(rng, COUNT, held=held)
    wrong = [
        (kind, SANITIZER.redact(text).text) for kind, text in alike if SANITIZER.redact(text).count
    ]
    seed = sum(seed_blocks(text) for _, text in alike)
    rows.append(("look-alikes touched", share(seed, COUNT), share(len(wrong), COUNT)))
    if misses:
        tell("look-alikes touched", wrong)
    return rows


def tell(name: str, wrong: list[tuple[str, str]]) -> None:
    print(f"-- {name}: {Counter(kind for kind, _ in wrong).most_common(30)}")
    for kind, text in wrong[:: max(1, len(wrong) // 40)]:
        print(f"   {kind}: {text[:150]!r}")


def fastest(sanitizer: Sanitizer, data: bytes, times: int = 5) -> float:
    """Milliseconds of this process's time, of the fastest of some runs."""
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        sanitizer.redact_bytes(data)
        best = min(best, (time.process_time() - start) * 1000)
    return best


def hostile() -> dict[str, bytes]:
    """A mebibyte each of what is made to take long."""
    rng = random.Random(1)
    rows = ["A", "a.", '"', " ", "\\", "%41", "password=", "password= ", 'password="', "pwd=abcd "]
    rows += ["token: abcdefg1 ", "key=aB3dE5gH7jK9mN1pQ3sT5vW7 ", "--password a1b2c3 ", "mysql -p "]
    rows += [
        "-" * 5 + "BEGIN PRIVATE KEY" + "-" * 5 + "\n",
        "ghp_",
        "eyJhbGci.",
        "a://b:c@d ",
        "sk-",
    ]
    made = {repr(row): (row.encode() * (2**20 // len(row) + 1))[: 2**20] for row in rows}
    made["random bytes"] = rng.randbytes(2**20)
    made["base64"] = base64.b64encode(rng.randbytes(2**20))[: 2**20]
    made["lines of tokens"] = b"\n".join(base64.b64encode(rng.randbytes(30)) for _ in range(25_000))
    return made


def main() -> None:
    misses = "--misses" in sys.argv
    print("| what | seed's rules | ours |\n| --- | --- | --- |")
    for held, part in ((False, "tuned"), (True, "held back")):
        for what, seed, ours in rates(held=held, misses=misses):
            print(f"| {what}, {part} | {seed} | {ours} |")
    outputs = program_outputs()
    seed = share(sum(map(seed_blocks, outputs)), len(outputs))
    done = [SANITIZER.redact(output) for output in outputs]
    whole = share(sum(one.blocked for one in done), len(outputs))
    touched = share(sum(one.count > 0 for one in done), len(outputs))
    print(f"| program texts blocked whole | {seed} | {whole} |")
    print(f"| program texts touched | | {touched} |")
    if misses:
        for text in outputs:
            for f in SANITIZER.redact(text).findings:
                print(f"   {f.kind}: {text[max(0, f.start - 40) : f.end + 10]!r}")
    text = "".join(outputs).encode()[: 2**20]
    value = samples.take(samples.BASE62, 40)
    ten = Sanitizer([InjectedSecret(f"S{i}", value(random.Random(i))) for i in range(10)])
    print(f"\n1 MiB of program text: {fastest(SANITIZER, text):.0f} ms")
    print(f"the same with ten injected secrets: {fastest(ten, text):.0f} ms")
    slowest = {name: fastest(SANITIZER, data, 2) for name, data in hostile().items()}
    for name, ms in sorted(slowest.items(), key=lambda item: -item[1])[:6]:
        print(f"1 MiB of {name}: {ms:.0f} ms")


if __name__ == "__main__":
    main()
