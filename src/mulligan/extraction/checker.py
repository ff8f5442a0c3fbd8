"""The child process that checks syntax: started by ``syntax.py``, imports nothing of Mulligan.

Arguments: the number of a socket, and the directory tree-sitter's packages are in. A request is a
length (4 bytes, big-endian), that much JSON (``language``, ``size``) and ``size`` bytes of source;
the answer a length and a JSON list of ``[line, column, message]``. Before requests it says "1".
"""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import sys
import warnings

MEMORY = 512 * 1024 * 1024
CPU_SECONDS = 2
MOST_PROBLEMS = 10
HEADER = struct.Struct("!I")
TOP_LEVEL_AWAIT = 0x2000  # PyCF_ALLOW_TOP_LEVEL_AWAIT

Problem = tuple[int, int, str]


def main() -> None:
    """Serves until the other end is closed."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    warnings.simplefilter("ignore")  # a doubtful escape is no error
    connection.sendall(b"1")
    while header := receive(connection, HEADER.size):
        request = json.loads(receive(connection, HEADER.unpack(header)[0]))
        source = receive(connection, request["size"])
        limit_time()
        code = source.decode("utf-8", "surrogatepass")
        found = check(code, request["language"], cell=request["cell"])
        problems = [(line, column, text[:200]) for line, column, text in found]
        answer = json.dumps(problems).encode()
        connection.sendall(HEADER.pack(len(answer)) + answer)


def receive(connection: socket.socket, size: int) -> bytes:
    """That many bytes; fewer where the other end is closed."""
    pieces = []
    while size > 0 and (piece := connection.recv(min(size, 65536))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def limit_time() -> None:
    """Ends this process two seconds of computing from now, should nobody else."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def check(code: str, language: str, *, cell: bool = False) -> list[Problem]:
    """What is wrong with some code; that of a kernel's cell may await at its top level."""
    if language in ("python", "javascript"):
        code = code.removeprefix("\ufeff")  # as their interpreters do
    return check_python(code, cell=cell) if language == "python" else check_tree(code, language)


def check_python(code: str, *, cell: bool = False) -> list[Problem]:
    """By the interpreter's own compiler."""
    null = code.find("\0")
    if null >= 0:
        return [(*place(code, null), "source code cannot contain null characters")]
    try:
        compile(code, "<code>", "exec", TOP_LEVEL_AWAIT if cell else 0, dont_inherit=True)
    except SyntaxError as error:
        return [(error.lineno or 1, max(error.offset or 1, 1), error.msg)]
    except UnicodeEncodeError as error:
        return [(*place(code, error.start), "source code cannot contain lone surrogates")]
    except (MemoryError, RecursionError):
        return [(1, 1, "too deeply nested or too long to be compiled")]
    except (ValueError, OverflowError) as error:
        return [(1, 1, str(error))]
    return []


def place(code: str, at: int) -> tuple[int, int]:
    """Line and column of a character, from 1."""
    return code.count("\n", 0, at) + 1, at - code.rfind("\n", 0, at)


def check_tree(code: str, language: str) -> list[Problem]:
    """By tree-sitter: the places its grammar does not accept."""
    from importlib import import_module  # noqa: PLC0415  (Python code needs none of this)

    if sys.argv[2] not in sys.path:
        sys.path.append(sys.argv[2])
    tree_sitter = import_module("tree_sitter")
    grammar = import_module(f"tree_sitter_{language}")
    source = code.encode("utf-8", "replace")
    tree = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(source)
    problems: list[Problem] = []
    cursor = tree.walk()
    while len(problems) < MOST_PROBLEMS:
        node = cursor.node
        if node.is_missing or node.is_error:
            begin = source.rfind(b"\n", 0, node.start_byte) + 1
            column = len(source[begin : node.start_byte].decode("utf-8", "replace")) + 1
            problems.append((node.start_point[0] + 1, column, describe(node, source)))
        elif node.has_error and cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return problems
    return problems


def describe(node: object, source: bytes) -> str:
    """What is wrong at a node."""
    if node.is_missing:  # type: ignore[attr-defined]
        return f"{node.type!r} is missing"  # type: ignore[attr-defined]
    text = source[node.start_byte : node.start_byte + 40].decode("utf-8", "replace")  # type: ignore[attr-defined]
    words = text.split("\n", 1)[0].strip()
    return f"invalid syntax at {words!r}" if words else "invalid syntax"


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # whoever asked has gone
