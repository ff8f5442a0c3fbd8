"""Texts and enum forms of the errors."""

import json

import pytest

from mulligan import errors
from mulligan.errors import VmExecutionError, from_wire

# Class, variant, detail, text, HTTP status
TABLE = [
    (errors.VmNotAvailable, "VmNotAvailable", "vm-1", "VM not available: vm-1", 404),
    (errors.ValidationFailed, "ValidationFailed", "no", "Code validation failed: no", 400),
    (errors.ExecutionTimeout, "Timeout", 30000, "Execution timeout after 30000ms", 504),
    (errors.UnsupportedLanguage, "UnsupportedLanguage", "c", "Language not supported: c", 400),
    (errors.ApiError, "ApiError", "502", "API error: 502", 502),
    (errors.InternalError, "Internal", "oh", "Internal error: oh", 500),
    (errors.HistoryError, "HistoryError", "off", "History error: off", 500),
    (errors.SnapshotNotFound, "SnapshotNotFound", "s-1", "Snapshot not found: s-1", 404),
    (errors.RollbackFailed, "RollbackFailed", "busy", "Rollback failed: busy", 409),
    (errors.SessionNotFound, "SessionNotFound", "x", "Session not found: x", 404),
    (errors.ConnectionFailed, "ConnectionError", "down", "Connection error: down", 502),
    (errors.ConfigError, "ConfigError", "bad", "Configuration error: bad", 500),
    (errors.ExecutionFailed, "ExecutionFailed", "died", "Execution failed: died", 500),
    (errors.SnapshotFailed, "SnapshotFailed", "full", "Snapshot creation failed: full", 500),
    (errors.ApprovalRequired, "ApprovalRequired", "a: ?", "Approval required: a: ?", 403),
    (errors.ApprovalDenied, "ApprovalDenied", "a", "Approval denied: a", 403),
    (errors.ApprovalExpired, "ApprovalExpired", "a", "Approval expired: a", 410),
    (errors.ApprovalNotFound, "ApprovalNotFound", "a", "Approval not found: a", 404),
    (errors.ApprovalConflict, "ApprovalConflict", "a", "Approval not usable: a", 409),
    (errors.FileError, "FileError", "f", "File error: f", 400),
    (errors.SessionExists, "SessionExists", "s", "Session exists already: s", 409),
    (errors.IdempotencyKeyReused, "IdempotencyKeyReused", "k", "Idempotency key reused: k", 409),
    (errors.IdempotencyKeyLost, "IdempotencyKeyLost", "k", "Answer lost: k", 409),
]


def test_the_table_has_every_variant() -> None:
    assert {row[1]: row[0] for row in TABLE} == errors.VARIANTS
    assert len(TABLE) == len(errors.VARIANTS) == 23


@pytest.mark.parametrize(("kind", "variant", "detail", "text", "status"), TABLE)
def test_text_and_enum_form(
    kind: type[VmExecutionError], variant: str, detail: str | int, text: str, status: int
) -> None:
    error = kind(detail)
    assert (str(error), error.http_status) == (text, status)
    assert json.dumps(error.to_wire()) == json.dumps({variant: detail})
    back = from_wire(json.loads(json.dumps(error.to_wire())))
    assert type(back) is kind
    assert (back.detail, str(back), back.field, back.remedy) == (detail, text, None, None)


def test_field_and_remedy_stay_off_the_text_and_the_wire() -> None:
    error = errors.ConfigError("x", field="port", remedy="use another")
    assert (error.field, error.remedy) == ("port", "use another")
    assert (str(error), error.to_wire()) == ("Configuration error: x", {"ConfigError": "x"})


def test_braces_in_a_detail_are_text() -> None:
    assert str(from_wire({"ApiError": "{0} {x}"})) == "API error: {0} {x}"


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1, "Internal", "", [], ["Internal", "x"], {}),
        *({"Nonsense": "x"}, {"internal": "x"}, {"": "x"}, {1: "x"}, {None: "x"}),
        *({"Internal": None}, {"Internal": 1}, {"Internal": ["x"]}, {"Internal": {}}),
        *({"Timeout": "30000"}, {"Timeout": 1.5}, {"Timeout": True}, {"Timeout": None}),
        {"Internal": "x", "ApiError": "y"},
        {"Nonsense": "x" * 10**6},
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_garbage_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not an error of the wire format") as caught:
        from_wire(value)
    assert len(str(caught.value)) < 300
