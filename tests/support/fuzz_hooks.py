"""What schemathesis does to its requests before it sends them to a Mulligan; see schemathesis.toml.

- Each has an idempotency key of its own: the same key twice is answered as if nothing had happened
  in between, which is right and looks like a resource that is gone.
- An integer is written as one. To JSON Schema 5.0 is an integer; to the wire format it is none.
- What is made is bounded: one agent in place of all there could be, a few forks at a time, seconds.
- No image is built, which asks a mirror for a hundred megabytes: none can have that name.
- Half of what names a VM names the one in ``MULLIGAN_FUZZ_VM``: routes then have something to do.
"""

import os
import re
import uuid
from typing import Any

import schemathesis

AGENT = "fuzz"
VM = os.environ.get("MULLIGAN_FUZZ_VM")
SESSION = os.environ.get("MULLIGAN_FUZZ_SESSION")
_AGENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
MOST = {"count": (1000, 3), "timeout_seconds": (3600, 2)}  # what may be, and what is sent


def bounded(value: Any, depth: int = 0) -> Any:
    """A body in which integers are integers and numbers and agents are few."""
    if depth > 20:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [bounded(each, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    found = {name: bounded(each, depth + 1) for name, each in value.items()}
    for name, (most, enough) in MOST.items():
        if type(found.get(name)) is int and enough < found[name] <= most:
            found[name] = enough  # what is too much stays so
    if isinstance(found.get("agent_id"), str) and _AGENT.fullmatch(found["agent_id"]):
        found["agent_id"] = AGENT
    return found


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    for name in [each for each in case.headers or {} if each.lower() == "idempotency-key"]:
        if re.fullmatch(r"[!#-~]([ -~]*[!-~])?", str(case.headers[name])):
            case.headers[name] = str(uuid.uuid4())
    if isinstance(case.body, dict | list):
        case.body = bounded(case.body)
    if case.operation.label == "POST /api/images" and isinstance(case.body, dict):
        case.body["name"] = "host"
    named = case.path_parameters or {}
    for name, real in (("vm_id", VM), ("name", SESSION)):
        given = str(named.get(name, ""))
        if case.operation.method.upper() == "DELETE" and given == real:
            named[name] = "is-needed"
        elif case.operation.method.upper() != "DELETE" and real and name in named:
            named[name] = real if sum(given.encode()) % 2 == 0 else given
