"""The async and the blocking classes are one; and the seed's client is all there."""

import inspect

import pytest

from mulligan import AsyncVm, SyncVmExecutionClient, Vm, VmExecutionClient

# The methods of the wire format's own client, with their parameters in order. Its constructors
# `with_...` take the client and return it.
SEED = {
    "with_hook_manager": ["hook_manager"],
    "with_auth_token": ["token"],
    "execute_code": ["request"],
    "parse_and_execute": ["request"],
    "get_vm_pool": ["agent_id"],
    "provision_vm": ["agent_id", "vm_type"],
    "wait_for_vm_ready": ["vm_id", "max_wait_seconds"],
    "health_check": [],
    "query_history": ["request"],
    "rollback_to_snapshot": ["request"],
    "get_last_successful_snapshot": ["vm_id", "agent_id"],
    "query_failures": ["vm_id", "agent_id", "limit"],
    "rollback_to_last_success": ["vm_id", "agent_id"],
    "execute_python": ["agent_id", "code"],
    "execute_javascript": ["agent_id", "code"],
    "execute_bash": ["agent_id", "command"],
}
PAIRS = [(VmExecutionClient, SyncVmExecutionClient), (AsyncVm, Vm)]
OWN = {"AsyncVm": "Vm"}  # what a blocking class gives in place of the async one


def public(kind: type) -> dict[str, object]:
    """Everything of a class that has no underscore, its constructor too."""
    found = {
        name: member for name, member in inspect.getmembers_static(kind) if not name.startswith("_")
    }
    return found | {"__init__": kind.__init__}


def shape(function: object) -> list[tuple[str, object, object, str]]:
    """Parameters and what is returned: names, kinds, defaults and annotations."""
    signature = inspect.signature(function)
    of = [
        (each.name, each.kind, each.default, str(each.annotation))
        for each in signature.parameters.values()
    ]
    return [*of, ("return", None, None, _returned(str(signature.return_annotation)))]


def _returned(annotation: str) -> str:
    """What a caller gets in the end: items of an iterator, whichever kind it is."""
    for before in ("AsyncGenerator[", "Iterator["):
        if annotation.startswith(before):
            annotation = "items " + annotation.removeprefix(before).removesuffix("]")
            annotation = annotation.removesuffix(", None")
    for name, own in OWN.items():
        annotation = annotation.replace(name, own)
    return annotation


@pytest.mark.parametrize(("source", "blocking"), PAIRS)
def test_the_blocking_class_has_exactly_the_same(source: type, blocking: type) -> None:
    ours, theirs = public(blocking), public(source)
    assert set(ours) == set(theirs)
    for name, member in theirs.items():
        other = ours[name]
        assert type(other) is type(member), name
        if isinstance(member, property):
            assert shape(other.fget) == shape(member.fget), name
            continue
        if name == "fork" and blocking is Vm:
            other = inspect.unwrap(other)  # it is that of the source
        assert shape(other) == shape(member), name
        assert inspect.getdoc(other), name


@pytest.mark.parametrize(("source", "blocking"), PAIRS)
def test_no_blocking_method_is_async(source: type, blocking: type) -> None:
    for name, member in public(blocking).items():
        assert not inspect.iscoroutinefunction(member), name
        assert not inspect.isasyncgenfunction(member), name
    assert any(inspect.iscoroutinefunction(member) for member in public(source).values())


@pytest.mark.parametrize("client", [VmExecutionClient, SyncVmExecutionClient])
def test_the_seeds_methods_are_all_there(client: type) -> None:
    for name, parameters in SEED.items():
        found = list(inspect.signature(getattr(client, name)).parameters.values())
        mine = ["self", *parameters]
        assert [each.name for each in found[: len(mine)]] == mine, name
        assert all(each.kind is each.KEYWORD_ONLY for each in found[len(mine) :]), name


@pytest.mark.parametrize("kind", [each for pair in PAIRS for each in pair])
def test_everything_is_annotated(kind: type) -> None:
    for name, member in public(kind).items():
        function = member.fget if isinstance(member, property) else member
        hints = set(inspect.get_annotations(inspect.unwrap(function)))
        wanted = set(inspect.signature(inspect.unwrap(function)).parameters) - {"self"}
        assert wanted | {"return"} <= hints, name
