"""Work on trees of guests' files, done inside the VM so that no server ever touches them.

A tree is the upper directory of an overlay mounted with ``userxattr``, live or frozen. Whatever a
program could make may be in it: any names, locked directories, depths no path can express, links
to anywhere, files of petabytes with nothing in them.
"""

from __future__ import annotations

import os
import sys

from mulligan.guest.lightjson import dumps

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

MOST_TEXT = 64 * 1024
MOST_TOTAL = 8 * 1024 * 1024
MOST_ENTRIES = 100_000
UNBOUNDED = 1 << 62

_FIELDS = {
    "copy": {"source", "target", "most_bytes", "most_entries"},
    "merge": {"trees", "target"},
    "diff": {"old", "new", "image", "max_text_bytes", "max_total", "max_entries"},
    "size": {"trees"},
    "unpack": {
        "source",
        "target",
        "reference",
        "most_bytes",
        "most_entries",
        "most_ratio",
        "min_free",
    },
}


def main(arguments: dict[str, Any]) -> None:
    """Does one job and prints what came of it, a JSON object per line of UTF-8.

    ``arguments["op"]`` says which; all paths are absolute, lists of trees are newest first:

    - ``copy`` of ``source`` to ``target``: ``{"entries": names made}``; with ``most_bytes`` and
      ``most_entries`` only of what is no larger, else ``{"too_large": true}`` and nothing is made
    - ``merge`` of ``trees`` into ``target``: ``{"entries": names made, "copied": of which not
      linked but copied}``
    - ``diff`` of the stacks ``old`` and ``new`` over ``image`` (a path or None): the fields of
      ``models.DiffEntry`` per line, paths in order, then ``{"end": true, "truncated": whether
      something was left out}``; ``max_text_bytes`` (per file), ``max_total`` (bytes of text of
      all files) and ``max_entries`` bound it
    - ``size`` of ``trees``: ``{"bytes": on disk, "entries": names}``
    - ``unpack`` of the archive ``source`` into ``target``: see ``imports.unpack``

    A ``target`` is made, or is an empty directory; after a failure it holds a part.

    Raises:
        ValueError: an argument is missing, unknown or of the wrong kind; the text names it.
        OSError: a tree could not be read or the target not be written.
    """
    op = arguments.get("op")
    if op not in _FIELDS:
        raise ValueError(f"op must be one of {', '.join(_FIELDS)}, not {op!r}")
    for name in arguments:
        if name != "op" and name not in _FIELDS[op]:
            raise ValueError(f"{op} takes no argument {name!r}")
    write = sys.stdout.buffer.write
    for line in _run(op, arguments):
        write(dumps(line).encode() + b"\n")
        if "progress" in line:
            sys.stdout.buffer.flush()
    sys.stdout.buffer.flush()


def _run(op: str, arguments: dict[str, Any]) -> Iterable[dict[str, object]]:
    if op == "copy":
        from mulligan.guest.jobs.copy import copy
        from mulligan.guest.jobs.size import within

        source = _path(arguments, "source")
        most = [_count(arguments, name, UNBOUNDED) for name in ("most_bytes", "most_entries")]
        if min(most) < UNBOUNDED and not within(source, *most):
            return [{"too_large": True}]
        return [copy(source, _path(arguments, "target"))]
    if op == "merge":
        from mulligan.guest.jobs.merge import merge

        return [merge(_paths(arguments, "trees", least=1), _path(arguments, "target"))]
    if op == "size":
        from mulligan.guest.jobs.size import size

        return [size(_paths(arguments, "trees"))]
    if op == "unpack":
        from mulligan.guest.imports.unpack import unpack

        return unpack(arguments)
    from mulligan.guest.jobs.diff import Limits, diff

    image = [_path(arguments, "image")] if arguments.get("image") is not None else []
    limits = Limits(
        text=_count(arguments, "max_text_bytes", MOST_TEXT),
        total=_count(arguments, "max_total", MOST_TOTAL),
        entries=_count(arguments, "max_entries", MOST_ENTRIES),
    )
    return diff(_paths(arguments, "old") + image, _paths(arguments, "new") + image, limits)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and os.path.isabs(value) and "\0" not in value


def _path(arguments: dict[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not _is_path(value):
        raise ValueError(f"{name} must be an absolute path, not {value!r}")
    return str(value)


def _paths(arguments: dict[str, Any], name: str, least: int = 0) -> list[str]:
    value = arguments.get(name)
    if not isinstance(value, list) or len(value) < least or not all(map(_is_path, value)):
        raise ValueError(f"{name} must be a list of absolute paths, at least {least}")
    return value


def _count(arguments: dict[str, Any], name: str, usual: int) -> int:
    value = arguments.get(name, usual)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number from 0, not {value!r}")
    return value
