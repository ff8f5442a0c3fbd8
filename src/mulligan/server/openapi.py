"""The OpenAPI document: what FastAPI knows of the routes, and what only we know of them.

Examples are in ``examples.py``. Errors are those of ``errors.py`` as routes really answer them:
most follow from what a route takes, and ``SPECIAL`` has the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from mulligan.server.bounds import BOUNDS
from mulligan.server.examples import ANSWERS, EXAMPLES, PARAMETERS, error_example

Json = dict[str, Any]
METHODS = ("get", "post", "put", "delete", "patch", "head")
OPEN = "/health"  # needs no token
ERROR = {"$ref": "#/components/schemas/ErrorAnswer"}
# What a route of a path is about: the first that fits.
TAGS = (
    (r"/sessions", "sessions"),
    (r"/api/approvals", "approvals"),
    (r"/api/packages", "packages"),
    (r"/api/image", "images"),
    (r"/api/(llm/vm-pool|vms(/\{vm_id\}(/stop)?)?$)", "VMs"),
    (r"/api/(llm|executions)", "executions"),
    (r"/api/vms/\{vm_id\}/(history|snapshots|rollback|fork|diff)", "time machine"),
    (r"/api/vms/\{vm_id\}/files", "files"),
    (r"", "server"),
)
DESCRIPTIONS = {
    "executions": "Running code: at once, as a stream, in batches, from a model's answer.",
    "VMs": "Each agent's isolated VMs.",
    "time machine": "What was executed, and taking it back.",
    "sessions": "VMs with a name and a shell that goes on from command to command.",
    "files": "Files of VMs.",
    "approvals": "What people are asked before something runs.",
    "images": "What VMs' disks start from, beside the host's own.",
    "packages": "Sets of packages that executions asked for.",
    "server": "The server itself.",
}
STATUSES = {
    400: "The request was understood and refused: a value is wrong, or a gate says no",
    401: "A token is needed, or this one is not good here",
    403: "The caller may not do this, or a person has to say yes or said no",
    404: "There is no such thing, or it is another agent's",
    408: "The rest of the body did not come in time",
    409: "It does not fit what there is: see `error`",
    410: "Its time has passed",
    412: "The file has changed",
    413: "It is too large",
    416: "The file has no such range",
    422: "A field is missing, unknown or of another type",
    429: "Too many requests; `Retry-After` says when to come again",
    500: "It could not be done: see `message` and `remedy`",
    502: "The VM ended under it, or gave no answer that can be used",
    503: "Not now",
    504: "It took too long",
    507: "The VM's disk is full",
}
# Statuses besides those that follow from what a route takes.
SPECIAL: dict[str, tuple[int, ...]] = {
    "execute": (403, 404, 409, 410),
    "execute_stream": (404,),
    "execute_in_session": (403, 409, 410),
    "parse_execute": (404,),
    "create_session": (404, 409),
    "create_vm": (404,),
    "list_vms": (404,),
    "list_sessions": (404,),
    "list_approvals": (400, 404),
    "session_info": (400,),
    "delete_session": (400,),
    "answer_approval": (409, 410),
    "rollback": (409,),
    "rollback_to": (409,),
    "rollback_session": (409,),
}


def operation_id(route: APIRoute) -> str:
    """A route's name, which is that of its function: stable, and unique."""
    return route.name


def install(app: FastAPI) -> None:
    """Makes an app describe itself in this form."""

    def describe() -> Json:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description="Errors have one form: see `ErrorAnswer`. Requests that take the "
                "header `Idempotency-Key` are done once, however often they are sent with it.",
                routes=app.routes,
                tags=[{"name": name, "description": text} for name, text in DESCRIPTIONS.items()],
            )
            _complete(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """(path, method, operation) of each."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def _complete(document: Json) -> None:
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own form of errors
        schemas.pop(unused, None)
    for path, _, operation in operations(document):
        operation["tags"] = [next(tag for pattern, tag in TAGS if re.match(pattern, path))]
        if path != OPEN:
            operation["security"] = [{}, {"token": []}]
        _exemplify(operation)
        _add_errors(path, operation)
    for name, example in EXAMPLES.items():
        if name in schemas:
            schemas[name]["examples"] = [example]
    for name, fields in BOUNDS.items():
        for field, bounds in fields.items():
            schema = schemas[name]["properties"][field]
            kinds = schema.get("anyOf", [schema])
            next(each for each in kinds if each.get("type") != "null").update(bounds)
    document["components"]["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "Asked for where there are tokens: see mulligan token create.",
        }
    }


def _exemplify(operation: Json) -> None:
    """Puts examples to parameters, bodies and answers."""
    for parameter in operation.get("parameters", []):
        _no_nulls(parameter)
        if parameter["name"] in PARAMETERS:
            parameter["example"] = PARAMETERS[parameter["name"]]
    contents = [operation.get("requestBody", {}).get("content", {})]
    contents += [
        answer.get("content", {})
        for status, answer in operation["responses"].items()
        if status.startswith("2")
    ]
    for content in contents:
        for kind, media in content.items():
            example = ANSWERS.get(operation["operationId"])
            if kind == "application/json":
                example = _example_of(media.get("schema", {}))
            if example is not None:
                media.setdefault("example", example)


def _example_of(schema: Json) -> Any:
    if schema.get("type") == "array":
        one = _example_of(schema["items"])
        return None if one is None else [one]
    for each in (schema, *schema.get("anyOf", [])):
        name = each.get("$ref", "").rpartition("/")[2]
        if name in EXAMPLES:
            return EXAMPLES[name]
    return None


def _no_nulls(parameter: Json) -> None:
    """A parameter may be left out; there is no null in a URL or a header."""
    schema = parameter["schema"]
    kinds = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if len(kinds) == 1:
        del schema["anyOf"]
        parameter["schema"] = kinds[0] | schema


def _add_errors(path: str, operation: Json) -> None:
    answers = operation["responses"]
    answers.pop("422", None)  # FastAPI's own form
    for status in sorted(_statuses(path, operation)):
        found = answers.get(str(status), {})
        if _own_form(found):
            continue
        described = found.get("description", "")
        plain = described in ("", "Validation Error") or len(described.split()) <= 3  # noqa: PLR2004
        answers[str(status)] = found | {
            "description": STATUSES[status] if plain else described,
            "content": {"application/json": {"schema": ERROR, "example": error_example(status)}},
        }
        if status == 429:  # noqa: PLR2004  (the one with this header)
            answers["429"]["headers"] = {
                "Retry-After": {
                    "description": "Seconds to wait.",
                    "schema": {"type": "integer", "minimum": 0},
                }
            }
    operation["responses"] = dict(sorted(answers.items()))


def _own_form(answer: Json) -> bool:
    """Whether a route answers so in another form than errors have."""
    schema = answer.get("content", {}).get("application/json", {}).get("schema", ERROR)
    return bool(schema != ERROR)


def _statuses(path: str, operation: Json) -> set[int]:
    """The errors an operation may answer with."""
    declared = {int(status) for status in operation["responses"] if status >= "4"}
    found = {403, 500} | (declared - {422})
    if path != OPEN:
        found |= {401, 429}
    if "requestBody" in operation:
        found |= {400, 413, 422}
    parameters = operation.get("parameters", [])
    if any(_may_be_wrong(each["schema"]) for each in parameters):
        found.add(422)
    if "{" in path:
        found.add(404)
    if any(each["name"] == "Idempotency-Key" for each in parameters):
        found |= {400, 409}
    found.update(SPECIAL.get(operation["operationId"], ()))
    return found


def _may_be_wrong(schema: Json) -> bool:
    """Whether there are texts that are no such parameter."""
    plain = {"type", "title", "description"}
    return not any(
        each.get("type") == "string" and not set(each) - plain
        for each in schema.get("anyOf", [schema])
    )
