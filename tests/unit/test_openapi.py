"""The OpenAPI document: every route is described, with examples its models really take."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter

from mulligan import errors, models
from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.server.app import create_app
from mulligan.server.bounds import BOUNDS
from mulligan.server.examples import EXAMPLES, PARAMETERS
from mulligan.server.openapi import operations
from mulligan.server.watching import HealthAnswer

# Ids of operations are names of methods in generated clients: one that goes breaks those.
OPERATIONS = {
    "health", "execute", "execute_stream", "execute_batch", "parse_execute", "get_execution",
    "execution_events", "cancel_execution", "vm_pool", "create_vm", "list_vms", "get_vm",
    "delete_vm", "query_history", "create_snapshot", "list_snapshots", "delete_snapshot",
    "rollback", "rollback_to", "fork", "diff", "list_approvals", "get_approval",
    "answer_approval", "create_session", "list_sessions", "session_info", "delete_session",
    "execute_in_session", "snapshot_session", "rollback_session", "metrics", "list_files",
    "stat_file", "make_directory", "move_file", "delete_file", "read_file", "write_file",
}  # fmt: skip


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(settings_module.load(data_dir=tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return json.loads(json.dumps(app.openapi()))


def routes(app: FastAPI) -> Iterator[APIRoute]:
    return (route for route in app.routes if isinstance(route, APIRoute))


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_operation_ids_are_stable_and_unique(document: dict[str, Any]) -> None:
    found = [each["operationId"] for _, _, each in operations(document)]
    assert len(found) == len(set(found))
    assert set(found) >= OPERATIONS


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    tags = {each["name"] for each in document["tags"]}
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation.get("description"), where
        assert set(operation["tags"]) <= tags, where
        for status, answer in operation["responses"].items():
            assert len(answer["description"]) > 4, (where, status)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_errors_have_one_form_and_real_statuses(document: dict[str, Any]) -> None:
    known = {each.http_status for each in errors.VARIANTS.values()} | {
        401,
        403,
        408,
        413,
        416,
        422,
        429,
        503,
        507,
    }
    known |= {each.http_status for each in errors.FileError.__subclasses__()}
    form = {"$ref": "#/components/schemas/ErrorAnswer"}
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status < "4":
                continue
            assert int(status) in known, (method, path, status)
            content = answer["content"]["application/json"]
            if (path, status) == ("/health", "503"):
                continue
            assert content["schema"] == form, (method, path, status)
            models.ErrorAnswer.model_validate(content["example"])
        body = "requestBody" in operation
        assert ({"400", "413", "422"} <= set(operation["responses"])) or not body, path


def test_every_route_has_examples_its_models_take(app: FastAPI, document: dict[str, Any]) -> None:
    for route in routes(app):
        if not route.include_in_schema:
            continue
        (method,) = route.methods
        operation = document["paths"][route.path_format][method.lower()]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is not None:
            assert route.body_field is not None
            kind = TypeAdapter(route.body_field.field_info.annotation)
            read = kind.validate_json(json.dumps(body["example"]))
            assert read is not None, route.path
        answer = operation["responses"][str(route.status_code or 200)]
        for media in answer.get("content", {}).values():
            assert media.get("example"), route.path
            if route.response_model is not None:
                TypeAdapter(route.response_model).validate_json(json.dumps(media["example"]))


def test_every_parameter_has_an_example_it_takes(document: dict[str, Any]) -> None:
    without = {"Idempotency-Key"}  # a key belongs to one request: nobody should send the same
    for path, method, operation in operations(document):
        for each in operation.get("parameters", []):
            if each["name"] in without:
                continue
            assert each["name"] in PARAMETERS, (method, path, each["name"])
            example, schema = each["example"], each["schema"]
            if "pattern" in schema:
                assert re.search(schema["pattern"], str(example))
            if "enum" in schema:
                assert example in schema["enum"]


def test_no_example_and_no_bound_is_of_nothing(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(EXAMPLES) <= set(schemas)
    for name, fields in BOUNDS.items():
        assert set(fields) <= set(schemas[name]["properties"])


def struct(name: str) -> type[BaseModel]:
    return HealthAnswer if name == "HealthAnswer" else getattr(models, name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_of_their_models(name: str) -> None:
    read = struct(name).model_validate_json(json.dumps(EXAMPLES[name]))
    assert set(EXAMPLES[name]) <= set(type(read).model_fields)


@pytest.mark.anyio
async def test_the_engine_takes_what_examples_ask_for(engine: Engine) -> None:
    for request in EXAMPLES["BatchRequest"]["requests"]:
        done = await engine.execute(models.VmExecuteRequest.model_validate(request))
        assert done.outcome == "success"
    answer = models.ParseExecuteRequest.model_validate(EXAMPLES["ParseExecuteRequest"])
    assert (await engine.answers.parse_and_execute(answer)).code_blocks
    await engine.create_vm(models.VmCreateRequest.model_validate(EXAMPLES["VmCreateRequest"]))
    made = EXAMPLES["SessionCreateRequest"]
    session = await engine.sessions.create(models.SessionCreateRequest.model_validate(made))
    command = models.SessionCommand.model_validate(EXAMPLES["SessionCommand"])
    assert (await engine.sessions.execute(session.name, command)).output == "/workspace\n"


def test_no_machine_is_in_it(document: dict[str, Any]) -> None:
    assert str(Path.home()) not in json.dumps(document)
