"""The reference of the settings, from their Pydantic models."""

from __future__ import annotations

import inspect
import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mulligan.settings import Settings

HEAD = """# Settings

From the environment or a TOML file: the one named by `MULLIGAN_CONFIG`, else `mulligan.toml` in the
working directory, else `~/.config/mulligan/mulligan.toml`. The environment wins over the file, and
options of a command over both. In the file a name that does not exist is an error.

`MULLIGAN_HISTORY__ENABLED=false` and the following are the same; lists and tables in the
environment are JSON.

```toml
[history]
enabled = false
```
"""
COLUMNS = "| setting | in the environment | takes | default |\n| --- | --- | --- | --- |\n"


def page() -> str:
    """All settings, a section a table, as Markdown."""
    return HEAD + _section("", Settings)


def _section(path: str, model: type[BaseModel]) -> str:
    """A model's table, and below it those of the models in it."""
    rows, below = [], []
    for name, field in model.model_fields.items():
        full = f"{path}{name}"
        inner, keyed = _model_of(field.annotation)
        if inner is None:
            rows.append(_row(full, field))
        else:
            below.append(_section(f"{full}.{'<name>.' if keyed else ''}", inner))
    heading = f"## {path.rstrip('.') or 'Top level'}".replace("<", "&lt;")
    about = inspect.cleandoc(model.__doc__ or "").replace("``", "`")
    table = COLUMNS + "".join(rows) if rows else ""
    return "\n".join([f"\n{heading}\n", f"{about}\n", table, *below])


def _model_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section an annotation stands for, and whether there are several of it by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is dict:
        value = get_args(annotation)[1]
        return (
            (value, True)
            if isinstance(value, type) and issubclass(value, BaseModel)
            else (
                None,
                False,
            )
        )
    return None, False


def _row(path: str, field: FieldInfo) -> str:
    variable = "MULLIGAN_" + path.replace(".", "__").upper().replace("<NAME>", "<name>")
    takes = _words(field.annotation) + _bounds(field)
    about = f" {field.description}" if field.description else ""
    return f"| `{path}` | `{variable}` | {takes}{about} | {_default(path, field)} |\n"


def _words(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(each) for each in arguments if each is not type(None))
    if origin is list:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"table of {_words(arguments[1])}"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    names |= {SecretStr: "secret text", Any: "anything"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(each, key):,}".replace(",", " ")
        for each in field.metadata
        for key, sign in signs.items()
        if getattr(each, key, None) is not None
    ]
    return f", {' and '.join(found)}" if found else ""


def _default(path: str, field: FieldInfo) -> str:
    if path == "data_dir":
        return "`/var/lib/mulligan` for root, else `~/.local/share/mulligan`"
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "needed"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`".replace("'", '"')
