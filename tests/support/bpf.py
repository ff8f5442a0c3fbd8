"""Filters of system calls, run as the kernel runs them."""

import struct

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def verdict(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """Interprets a program over a struct seccomp_data (linux/seccomp.h)."""
    padded = [argument & 0xFFFFFFFFFFFFFFFF for argument in (*arguments, *[0] * 6)][:6]
    data = struct.pack("=iIQ6Q", number, arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    position, value = 0, 0
    while True:
        operation, then, otherwise, operand = code[position]
        position += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x54:
            value &= operand
        elif operation == 0x05:
            position += operand
        elif operation == 0x06:
            return operand
        else:
            tests = {0x15: value == operand, 0x35: value >= operand, 0x45: value & operand}
            position += then if tests[operation] else otherwise
