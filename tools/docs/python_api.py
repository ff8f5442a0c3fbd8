"""The reference of the Python API: which objects; mkdocstrings reads them."""

from __future__ import annotations

import mulligan
from mulligan import models

HEAD = """# Python

The names `from mulligan import …` has, what they take and return (`mulligan.models`), the errors
they raise (`mulligan.errors`), and what hooks are made of. A blocking class has the methods of its
async one, made from it: the same names, arguments and errors, without `await`.
"""
PLAIN = "    options: {inherited_members: false}\n"


def page() -> str:
    """The page, with a line for mkdocstrings where an object is to stand."""
    classes = [name for name in mulligan.__all__ if not name.startswith("_")]
    faces = [name for name in classes if name not in models.__all__ and "Error" not in name]
    text = HEAD
    for name in faces:
        home = getattr(mulligan, name).__module__
        derived = name in ("Vm", "SyncVmExecutionClient")
        text += f"\n## {name}\n\n::: {home}.{name}\n" + (PLAIN if derived else "")
    text += "\n## What goes in and comes out\n"
    for name in models.__all__:
        if isinstance(getattr(models, name), type):
            text += f"\n::: {getattr(models, name).__module__}.{name}\n{PLAIN}"
    for title, modules in {
        "Errors": ["mulligan.errors"],
        "Hooks": ["mulligan.hooks.interface", "mulligan.hooks.manager", "mulligan.hooks.approver"],
    }.items():
        text += f"\n## {title}\n"
        for module in modules:
            text += f"\n::: {module}\n"
            text += "    options: {inherited_members: false, show_root_heading: false,"
            text += " show_root_toc_entry: false}\n"
    return text
