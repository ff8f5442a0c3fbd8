"""The reference of the HTTP API, from the OpenAPI document."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from mulligan.server.app import create_app
from mulligan.settings import Settings

METHODS = ("get", "post", "put", "patch", "delete", "head", "options")
HEAD = """# HTTP

Made from the OpenAPI document, which a server gives at `/openapi.json`. Bodies and answers are JSON
where nothing else is said. Errors have one form, `ErrorAnswer`.
"""


def page() -> str:
    """All routes, and the shapes of what they take and answer, as Markdown."""
    with tempfile.TemporaryDirectory() as directory:  # an engine is made only when it starts
        document = create_app(Settings(data_dir=Path(directory))).openapi()
    return render(document)


def render(document: dict[str, Any]) -> str:
    """An OpenAPI document as Markdown."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                shared = item.get("parameters", [])
                groups[_group(path)].append(_route(method, path, item[method], shared))
    text = HEAD
    for name, routes in groups.items():
        text += f"\n## {name}\n" + "".join(routes)
    text += "\n## Shapes\n"
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        text += _shape(name, schema)
    return text


def _group(path: str) -> str:
    """What a route is listed under: the first part of its path that says something."""
    parts = [part for part in path.split("/") if part and not part.startswith("{")]
    return "/".join([""] + (parts[:2] if parts[:1] == ["api"] else parts[:1]))


def _route(method: str, path: str, route: dict[str, Any], shared: list[Any]) -> str:
    text = f"\n### {method.upper()} {path}\n\n".replace("{", "&#123;").replace("}", "&#125;")
    text += f"{route.get('summary', '')}.\n\n"
    if route.get("description"):
        text += f"{route['description'].replace('``', '`')}\n\n"
    parameters = [*shared, *route.get("parameters", [])]
    if parameters:
        text += "| parameter | in | type | default | |\n| --- | --- | --- | --- | --- |\n"
        for each in parameters:
            schema = each.get("schema", {})
            default = _value(schema["default"]) if "default" in schema else ""
            text += f"| `{each['name']}`{_star(each.get('required'))} | {each['in']} "
            text += f"| {_type(schema)} | {default} | {_cell(each.get('description', ''))} |\n"
        text += "\n"
    body = route.get("requestBody")
    if body:
        text += f"Takes {_content(body.get('content', {}))}.\n\n"
    text += "| status | answer |\n| --- | --- |\n"
    for status, answer in route.get("responses", {}).items():
        content = _content(answer.get("content", {}))
        about = _cell(answer.get("description", ""))
        text += f"| {status} | {': '.join(each for each in (about, content) if each)} |\n"
    return text


def _content(content: dict[str, Any]) -> str:
    """What a body is."""
    found = []
    for kind, each in content.items():
        shape = _type(each.get("schema", {}))
        found.append(shape if kind == "application/json" else f"`{kind}` ({shape})")
    return " or ".join(found)


def _shape(name: str, schema: dict[str, Any]) -> str:
    text = f"\n### {name}\n\n"
    if schema.get("description"):
        text += f"{schema['description'].replace('``', '`')}\n\n"
    fields = schema.get("properties", {})
    if not fields:
        return f"{text}{_type(schema)}\n"
    text += "| field | type | default | |\n| --- | --- | --- | --- |\n"
    required = schema.get("required", [])
    for field, each in fields.items():
        default = _value(each["default"]) if "default" in each else ""
        about = _cell(each.get("description", ""))
        text += f"| `{field}`{_star(field in required)} | {_type(each)} | {default} | {about} |\n"
    return text


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, with links to the shapes it names."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(each) for each in schema[key])
    if "enum" in schema:
        return " or ".join(f"`{_plain(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{_plain(schema['const'])}`"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return f"{kind} ({schema['format']})" if "format" in schema else str(kind)


def _star(required: Any) -> str:
    return " (needed)" if required else ""


def _value(value: Any) -> str:
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004


def _cell(text: str) -> str:
    """A text that stays within its cell of a table."""
    return " ".join(text.replace("|", "\\|").replace("``", "`").split())
