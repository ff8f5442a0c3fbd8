"""Injected secrets in names: of files, threads, types of results; and how many are kept."""

import pytest

from mulligan.models import HistoryQueryRequest, RollbackTo, SnapshotCreateRequest

pytestmark = pytest.mark.anyio

VALUE = "zQ8-vault-" + "77f3kKpLmN02xY"
MARKER = "[redacted:secret DEPLOY]"
SECRETS = {"DEPLOY": VALUE}


async def test_names_of_threads_in_the_notes_of_snapshots(run) -> None:
    code = (
        "import os, threading; stop = threading.Event()\n"
        "threading.Thread(target=stop.wait, name=os.environ['DEPLOY'], daemon=True).start()"
    )
    vm_id = (await run(code, kernel="main", secrets=SECRETS)).vm_id
    kept = await run.engine.past.snapshot(vm_id, SnapshotCreateRequest())
    back = await run.engine.past.rollback(vm_id, RollbackTo(snapshot_id=kept.id))
    listed = await run.engine.past.snapshots(vm_id)
    for found in (kept, back, *(each for each in listed if each.id == kept.id)):
        assert found.kernels[0].notes == [f"thread '{MARKER}' does not come along"]


async def test_names_of_files_in_diffs(run) -> None:
    code = 'mkdir d; cd d; echo 1 > "$DEPLOY"; echo 2 > bWxkYXRhQjlOZXpTcVRyS3pQd1hY'
    vm_id = (await run(code, "bash", secrets=SECRETS)).vm_id
    found = await run.engine.past.diff(vm_id)
    paths = {each.path for each in found.entries}
    assert paths >= {f"/workspace/d/{MARKER}", "/workspace/d/bWxkYXRhQjlOZXpTcVRyS3pQd1hY"}
    assert VALUE not in found.model_dump_json()


async def test_types_of_results(run) -> None:
    code = (
        "import gc, os, sys, time\n"
        "runner, = (each for each in gc.get_objects() if type(each).__name__ == 'Kernel')\n"
        'said = \'.{"op":"done","status":0,"results":[["text/%s","x"]]}\'\n'
        "runner.control.send((said % os.environ['DEPLOY']).encode()); time.sleep(60)"
    )
    answer = await run(code, kernel="main", secrets=SECRETS)
    assert [each.mime_type for each in answer.results] == [f"text/{MARKER}"]


async def test_errors_in_the_history(run) -> None:
    vm_id = (await run("true", "bash", secrets=SECRETS)).vm_id
    with pytest.raises(Exception, match="working_dir"):
        await run("true", "bash", working_dir=f"/{VALUE}")
    found = await run.engine.past.history(HistoryQueryRequest(vm_id=vm_id))
    assert MARKER in (found.entries[0].error or "")
    assert VALUE not in found.model_dump_json()


async def test_new_secrets_are_not_refused_for_the_sake_of_old_ones(run) -> None:
    for number in range(3):
        value = f"token-{number}-" + "A1b2C3d4" * 1000
        answer = await run('echo "$TOKEN"', "bash", secrets={"TOKEN": value})
        assert answer.stdout == "[redacted:secret TOKEN]\n"
