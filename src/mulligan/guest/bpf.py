"""Classic BPF as seccomp(2) takes it: the few instructions filters of system calls are made of.

Encodings are those of linux/filter.h and linux/bpf_common.h, offsets those of struct seccomp_data
in linux/seccomp.h on a little-endian machine. Values are compared in their low 32 bits, which is
all the kernel looks at in the arguments tested here.
"""

import struct

INSTRUCTION = struct.Struct("=HBBI")
ALLOW = 0x7FFF0000
KILL = 0x80000000
ERRNO = 0x00050000
NUMBER, ARCH = 0, 4
ARGUMENTS = tuple(range(16, 64, 8))

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_IF_ANY_OF = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
FARTHEST = 255  # of a conditional jump


def load(offset: int) -> bytes:
    """Loads 32 bits of struct seccomp_data."""
    return INSTRUCTION.pack(_LOAD, 0, 0, offset)


def keep(mask: int) -> bytes:
    """Keeps of what was loaded the bits in ``mask``."""
    return INSTRUCTION.pack(_AND, 0, 0, mask)


def give(verdict: int) -> bytes:
    """Ends with a verdict."""
    return INSTRUCTION.pack(_RETURN, 0, 0, verdict)


def refuse(number: int) -> bytes:
    """Ends with an error number for the caller."""
    return give(ERRNO | number)


def jump(over: int) -> bytes:
    """Passes over that many instructions."""
    return INSTRUCTION.pack(_JUMP, 0, 0, over)


def if_equal(value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """Passes over ``then`` or ``otherwise`` instructions."""
    return INSTRUCTION.pack(_IF_EQUAL, then, otherwise, value & 0xFFFFFFFF)


def if_at_least(value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """The same for a value that is not below."""
    return INSTRUCTION.pack(_IF_AT_LEAST, then, otherwise, value)


def if_any_of(bits: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """The same for a value that has one of the bits."""
    return INSTRUCTION.pack(_IF_ANY_OF, then, otherwise, bits)


def only(values: tuple[int, ...], number: int) -> list[bytes]:
    """Allows the values in what was loaded, and refuses others with an error number."""
    code = []
    for value in values:
        code += [if_equal(value, otherwise=1), give(ALLOW)]
    return [*code, refuse(number)]


def but(values: tuple[int, ...], number: int) -> list[bytes]:
    """Refuses the values in what was loaded with an error number, and allows others."""
    code = []
    for value in values:
        code += [if_equal(value, otherwise=1), refuse(number)]
    return [*code, give(ALLOW)]


def search(cases: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """Finds by halving which case a loaded value belongs to.

    The kernel runs a filter once for each number when it is installed, to learn which calls it
    need not ask about again: a list would make that slow.

    Args:
        cases: (first value, code that ends with a verdict), by ascending first value; a case goes
            up to the next one's first value.
    """
    if len(cases) == 1:
        return cases[0][1]
    middle = len(cases) // 2
    low, high = search(cases[:middle]), search(cases[middle:])
    first = cases[middle][0]
    if len(low) <= FARTHEST:
        return [if_at_least(first, then=len(low)), *low, *high]
    return [if_at_least(first, otherwise=1), jump(len(low)), *low, *high]
