"""What to try where a program failed for want of something VMs have only when they are told to."""

from __future__ import annotations

import re

from mulligan.models import VmExecuteResponse

MOST = 64 * 1024  # of the end of what it wrote, where the reason stands
_NAME = r"([A-Za-z0-9_.@/-]{1,80})"
_PYTHON = re.compile(rf"ModuleNotFoundError: No module named '{_NAME}'")
_NODE = re.compile(rf"Cannot find module '{_NAME}'")
_NO_WAY_OUT = re.compile(
    r"Temporary failure in name resolution|Could not resolve host|EAI_AGAIN|ENOTFOUND"
    r"|Network is unreachable|Name or service not known"
)


def hints(response: VmExecuteResponse) -> list[str]:
    """A line for each thing that may have been missing; none for what succeeded."""
    if response.exit_code == 0:
        return []
    text = response.stderr[-MOST:]
    found = []
    for pattern in (_PYTHON, _NODE):
        if (match := pattern.search(text)) and not match[1].startswith((".", "/")):
            package = match[1].split(".")[0] if pattern is _PYTHON else match[1]
            found.append(f"packages come with --require, if it is one: --require {package}")
    if _NO_WAY_OUT.search(text):
        found.append(
            "VMs have no network unless their type lets them reach hosts by name: docs/network.md"
        )
    return found
