"""Asks pip-audit about every locked package, and says what it did not find out.

``python tools/audit.py [--if-possible]``: the status is 1 where a package has a known hole, or
where not all could be looked up: pip-audit itself passes over packages its index does not know, and
calls that no holes. With ``--if-possible`` what could not be looked up is said, and is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent.parent / "requirements.lock"
SECONDS = 900
SECONDS_IF_POSSIBLE = 90  # a check does not wait for an index that does not answer
MOST_NAMED = 10
UNKNOWN = "NOT AUDITED"


def judge(printed: str) -> tuple[list[str], list[str]]:
    """What pip-audit found, and what it did not look at, a line each.

    Args:
        printed: its report, as ``--format json`` has it.

    Raises:
        ValueError: it is none.
    """
    report = json.loads(printed)
    if not isinstance(report, dict) or not report.get("dependencies"):
        raise ValueError("it has no packages")
    holes, skipped = [], []
    for each in report["dependencies"]:
        if "skip_reason" in each:
            skipped.append(str(each["name"]))
        for hole in each.get("vulns", []):
            better = ", ".join(hole.get("fix_versions", [])) or "no version yet"
            holes.append(f"{each['name']} {each['version']}: {hole['id']}, mended in {better}")
    return holes, skipped


def main() -> int:
    """Runs it; returns the exit status."""
    lenient = "--if-possible" in sys.argv[1:]
    command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--require-hashes"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
    seconds = SECONDS_IF_POSSIBLE if lenient else SECONDS
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        holes, skipped = judge(done.stdout)
    except subprocess.TimeoutExpired:
        return _unknown(f"no answer within {seconds} s", lenient=lenient)
    except ValueError:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return _unknown(f"pip-audit failed: {said[-1][:300]}", lenient=lenient)
    for hole in holes:
        print(hole)
    if skipped:
        named = ", ".join(skipped[:MOST_NAMED]) + (", …" if len(skipped) > MOST_NAMED else "")
        status = _unknown(
            f"{len(skipped)} packages its index does not know: {named}", lenient=lenient
        )
        return 1 if holes else status
    if not holes:
        print("no locked package has a known hole")
    return 1 if holes else 0


def _unknown(why: str, *, lenient: bool) -> int:
    print(f"{UNKNOWN}: {why}", file=sys.stderr)
    print("run `make audit` where the package index is reachable", file=sys.stderr)
    return 0 if lenient else 1


if __name__ == "__main__":
    sys.exit(main())
