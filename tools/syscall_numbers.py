"""Writes the table of system call numbers anew, from the kernel's own headers.

Usage: python tools/syscall_numbers.py

Needs a C preprocessor and the kernel's UAPI headers (Debian: gcc and linux-libc-dev). x86-64 has a
generated header of its own; aarch64 takes asm-generic/unistd.h with the options its
arch/arm64/include/uapi/asm/unistd.h sets. Names a newer table had already are kept: headers of an
older kernel make it no shorter.
"""

import json
import re
import subprocess
from pathlib import Path

TABLE = Path(__file__).parent.parent / "src/mulligan/drivers/bubblewrap/syscall_numbers.json"
HEADERS = {
    "x86_64": ("asm/unistd_64.h", ()),
    "aarch64": (
        "asm-generic/unistd.h",
        (
            "__ARCH_WANT_RENAMEAT",
            "__ARCH_WANT_NEW_STAT",
            "__ARCH_WANT_SET_GET_RLIMIT",
            "__ARCH_WANT_TIME32_SYSCALLS",
            "__ARCH_WANT_SYS_CLONE3",
            "__ARCH_WANT_MEMFD_SECRET",
        ),
    ),
}
NOT_CALLS = {"syscalls", "arch_specific_syscall"}
_DEFINE = re.compile(r"#define __NR(3264)?_(\w+) (?:__NR3264_)?(\w+)")


def from_headers(machine: str) -> dict[str, int]:
    """Number by name, as the installed headers have them.

    Args:
        machine: a key of ``HEADERS``.

    Raises:
        OSError, subprocess.CalledProcessError: there is no preprocessor, or no such header.
    """
    header, options = HEADERS[machine]
    arguments = [f"-D{option}" for option in options]
    if machine == "aarch64":  # read on any 64-bit machine
        arguments.append("-D__BITS_PER_LONG=64")
    said = subprocess.run(
        ["cc", "-E", "-dM", *arguments, "-"],
        input=f"#include <{header}>\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found, shared = {}, {}
    for kind, name, value in _DEFINE.findall(said):
        if value.isdigit():
            (shared if kind else found)[name] = int(value)
    for kind, name, value in _DEFINE.findall(said):  # one number, two names
        if not kind and value in shared:
            found[name] = shared[value]
    return {name: found[name] for name in found if name not in NOT_CALLS}


def main() -> None:
    """Writes the table, sorted by number."""
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for machine in HEADERS:
        numbers = table.get(machine, {}) | from_headers(machine)
        table[machine] = dict(sorted(numbers.items(), key=lambda item: item[1]))
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
