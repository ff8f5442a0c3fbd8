"""Images through the clients and over HTTP: made as jobs one can follow and stop."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from mulligan import SyncVmExecutionClient, VmExecutionClient, VmExecutionConfig
from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.errors import (
    ConfigError,
    FileError,
    FileTooLarge,
    Forbidden,
    ImageInUse,
    ImageNotFound,
    ValidationFailed,
)
from mulligan.history.tokens import open_tokens
from mulligan.models import HistoryConfig, ImageBuildRequest, VmCreateRequest, VmExecuteRequest
from support import host
from support.access import client_of
from support.images import Oci, entry, hard, small_root
from support.server import Server

pytestmark = pytest.mark.anyio
STANDS_IN = """#!/bin/sh
for last; do case "$last" in */root.tar) target=$last;; esac; done
echo "I: making it"
if [ -e {hold} ]; then exec sleep 600; fi
cp {archive} "$target"
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archives") / "root.tar"
    path.write_bytes(small_root(entry("etc/mark", b"of the image\n", mode=0o644)))
    return path


@pytest.fixture
def stand_in(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in mmdebstrap's place; while the file this gives is there, it does not end."""
    hold = tmp_path / "hold"
    program = tmp_path / "bin" / "mmdebstrap"
    program.parent.mkdir()
    program.write_text(STANDS_IN.format(hold=hold, archive=archive))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return hold


def direct(data_dir: Path, **more: object) -> VmExecutionClient:
    config = VmExecutionConfig(history=HistoryConfig(integration_mode="direct"))
    return VmExecutionClient(config, settings=settings_module.load(data_dir=data_dir, **more))


def left(data_dir: Path) -> set[str]:
    """What is where images are made."""
    found = {path.name for path in (data_dir / "images").glob("[wu]*/*")}
    return {name for name in found if not name.startswith("bwrap-")} - {"lock", "layers", "vms"}


async def test_a_client_imports_lists_and_removes(data_dir: Path, archive: Path) -> None:
    said: list[str] = []
    sent: list[tuple[int, int | None]] = []
    async with direct(data_dir) as client:
        made = await client.import_image(
            "small", archive, progress=said.append, sent=lambda *each: sent.append(each)
        )
        assert (made.name, made.source, list(made.programs)) == ("small", "root.tar", ["bash"])
        assert sent[-1] == (archive.stat().st_size, archive.stat().st_size)
        assert (said[0], said[-1]) == ("copying the archive", "keeping it")
        assert await client.list_images() == [made]
        assert await client.get_image("small") == made
        (job,) = await client.list_image_jobs()
        assert (job.state, job.kind, job.image) == ("done", "import", made)
        seen = await client.get_image_job(job.id, after=job.said - 1, wait_seconds=5)
        assert seen.lines == ["keeping it"]  # and it did not wait: there is no more to come
        assert (await client.cancel_image_job(job.id)).state == "done"
        await client.delete_image("small")
        for missing in (client.get_image("small"), client.delete_image("small")):
            with pytest.raises(ImageNotFound, match="no image 'small'"):
                await missing
        for missing in (client.get_image_job("image-0"), client.cancel_image_job("image-0")):
            with pytest.raises(ImageNotFound):
                await missing
    assert not left(data_dir)


async def test_what_a_server_has_hold_of_goes_with_its_last_vm(
    data_dir: Path, archive: Path
) -> None:
    async with direct(data_dir) as client:
        await client.import_image("small", archive)
    types = {"small": {"image": "small"}}
    chosen = {"vm_types": types, "default_vm_type": "small"}
    async with Engine(settings_module.load(data_dir=data_dir, **chosen)) as engine:
        vm = await engine.create_vm(VmCreateRequest(agent_id="a", vm_name="v", vm_type="small"))
        with pytest.raises(ImageInUse, match=vm.id):
            await engine.image_jobs.remove("small")
    plain = {"vm_types": {"plain": {}}, "default_vm_type": "plain"}
    async with Engine(settings_module.load(data_dir=data_dir, **plain)) as engine:
        assert (await engine.image_jobs.image("small")).vms == [vm.id]
        await engine.delete_vm(vm.id)
        await engine.image_jobs.remove("small")
        assert await engine.image_jobs.images() == []
    assert not list((data_dir / "images/store").iterdir())


SMALL = {"vm_types": {"plain": {}, "small": {"image": "small"}}, "default_vm_type": "plain"}


async def test_a_type_whose_image_is_missing_keeps_nobody_from_the_others(data_dir: Path) -> None:
    async with direct(data_dir, **SMALL) as client:
        with pytest.raises(ConfigError, match="there is no image 'small'") as missing:
            await client.provision_vm("a", "small")
        assert missing.value.field == "vm_types.small.image"
        assert "mulligan image build or import, and it is used at once" in missing.value.remedy
        assert [vm.vm_type for vm in await client.list_vms()] == []
        assert (await client.provision_vm("a", "plain")).vm_type == "plain"


@pytest.mark.long
async def test_an_image_is_used_as_soon_as_it_is_there(
    data_dir: Path, archive: Path, tmp_path: Path
) -> None:
    mark = entry("etc/mark", b"another\n", mode=0o644)
    other = Oci(small_root(mark)).write(tmp_path / "layout")  # a directory
    warm = {"plain": {}, "small": {"image": "small", "warm": 1}}
    async with direct(data_dir, **SMALL | {"vm_types": warm}) as client:
        await client.provision_vm("a", "plain")

        async def read(vm_id: str) -> str:
            request = VmExecuteRequest(
                agent_id="a", vm_id=vm_id, language="bash", code="cat /etc/mark"
            )
            return (await client.execute_code(request)).stdout

        first = await client.import_image("small", archive)
        vm = await client.provision_vm("a", "small")
        assert await read(vm.id) == "of the image\n"
        second = await client.import_image("small", other)
        new = await client.provision_vm("b", "small")
        assert await read(vm.id) == "of the image\n"
        engine = await client._backend.open()
        assert engine.fleet.vms[new.id].record.image == second.digest
        await engine.fleet.spares.settle()  # one is up, of the second
        await client.delete_vm(new.id)
        with pytest.raises(ImageInUse, match="VM type small has image small"):
            await client.delete_image("small")
        store = data_dir / "images/store"
        assert len(list(store.iterdir())) == 2  # the first is of a VM yet
        await client.delete_vm(vm.id)
        await client.import_image("small", other)
        assert [each.name for each in store.iterdir()] == [second.digest.partition(":")[2]]
        assert first.digest != second.digest
    assert not left(data_dir)


async def test_what_is_refused_fails_its_job(data_dir: Path, tmp_path: Path, archive: Path) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(small_root(hard("h", "../../etc/passwd")))
    large = tmp_path / "large.tar"
    with large.open("wb") as file:
        file.truncate(2 * 1024 * 1024 * 1024)
    async with direct(data_dir, images={"max_mb": 1000}) as client:
        with pytest.raises(ValidationFailed, match=r"\.\. in its path"):
            await client.import_image("bad", bad)
        (job,) = await client.list_image_jobs()
        assert (job.state, job.image) == ("failed", None)
        with pytest.raises(FileTooLarge, match=r"over 1048576000 bytes"):
            await client.import_image("large", large)
        with pytest.raises(ValidationFailed, match="no name for an image"):
            await client.import_image("host", archive)
        with pytest.raises(ValidationFailed, match="is no OCI layout: it has no oci-layout"):
            await client.import_image("small", tmp_path)
        linked = Oci(small_root()).write(tmp_path / "linked")
        (linked / "index.json").unlink()
        (linked / "index.json").symlink_to("/etc/hostname")
        with pytest.raises(FileError, match="symbolic links"):
            await client.import_image("small", linked)
        with pytest.raises(FileError, match="No such file"):
            await client.import_image("small", tmp_path / "nothing")
        assert await client.list_images() == []
    assert not left(data_dir)


async def test_a_build_is_followed_and_stopped(data_dir: Path, stand_in: Path) -> None:
    said: list[str] = []
    async with direct(data_dir) as client:
        made = await client.build_image("deb", "bookworm", ["jq"], progress=said.append)
        assert made.source == "Debian bookworm with jq"
        assert "making it" in said
        stand_in.touch()
        first = await client._backend.images.build(ImageBuildRequest(name="one"))
        second = await client._backend.images.build(ImageBuildRequest(name="two"))
        assert await _says(client, first.id, "making it")
        assert await _says(client, second.id, "waiting for another image to be made")
        assert (await client.cancel_image_job(second.id)).state == "cancelled"
        assert (await client.cancel_image_job(first.id)).state == "cancelled"
        third = asyncio.create_task(client.build_image("three"))
        assert await _until(client, lambda jobs: jobs[0].name == "three" and jobs[0].said > 0)
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        assert [each.state for each in await client.list_image_jobs()][:3] == ["cancelled"] * 3
        with pytest.raises(ValidationFailed, match="no name of a package"):
            await client.build_image("deb", packages=["--purge"])
        # What runs when the engine closes is ended, too.
        await client._backend.images.build(ImageBuildRequest(name="four"))
        assert await _until(client, lambda jobs: jobs[0].said > 0)
        assert [each.name for each in await client.list_images()] == ["deb"]
    assert not left(data_dir)
    assert not host.naming(data_dir / "images")


async def _says(client: VmExecutionClient, job_id: str, line: str) -> bool:
    found = await client.get_image_job(job_id)
    while line not in found.lines and found.state == "running":
        found = await client.get_image_job(job_id, found.said, 10)
    return line in found.lines


async def _until(client: VmExecutionClient, holds) -> bool:
    async with asyncio.timeout(20):
        while not holds(await client.list_image_jobs()):
            await asyncio.sleep(0.02)
    return True


async def test_a_host_without_mmdebstrap_says_so(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with direct(data_dir) as client:
        await client.list_images()
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(ConfigError, match="needs mmdebstrap"):
            await client.build_image("deb")


# Over HTTP


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Server, dict[str, str]]]:
    with host.data_directory() as path:
        with open_tokens(path / "history") as store:
            tokens = {"agent": store.create("a")[1], "admin": store.create(None)[1]}
        with Server(path, MULLIGAN_LOG_LEVEL="warning", MULLIGAN_IMAGES__MAX_MB="64") as server:
            yield server, tokens


def test_over_http(guarded: tuple[Server, dict[str, str]], archive: Path) -> None:
    server, tokens = guarded
    said: list[str] = []
    config = VmExecutionConfig(api_base_url=server.url)
    with SyncVmExecutionClient(config, auth_token=tokens["admin"]) as client:
        made = client.import_image("small", archive, progress=said.append)
        assert said[-1] == "keeping it"
        assert client.list_images() == [made]
        assert client.get_image("small") == made
        client.delete_image("small")
        for name in ("small", "..", "a/b", "", "Ü" * 400):
            with pytest.raises(ImageNotFound):
                client.get_image(name)
        with pytest.raises(ImageNotFound):
            client.get_image_job("image-0")
        with pytest.raises(ValidationFailed, match="no name for an image"):
            client.import_image("host", archive)
    with SyncVmExecutionClient(config, auth_token=tokens["agent"]) as client:
        for work in (
            client.list_images,
            client.list_image_jobs,
            lambda: client.get_image("small"),
            lambda: client.delete_image("small"),
            lambda: client.build_image("small"),
            lambda: client.import_image("small", archive),
        ):
            with pytest.raises(Forbidden, match="images are for administrators"):
                work()
    assert not left(server.data_dir)


def test_uploads_that_end_early_or_are_too_much_leave_nothing(
    guarded: tuple[Server, dict[str, str]],
) -> None:
    server, tokens = guarded

    async def too_much() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield bytes(1024 * 1024)

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(1024 * 1024)
        raise ConnectionError

    async def send() -> None:
        headers = {"Authorization": f"Bearer {tokens['admin']}"}
        async with httpx.AsyncClient(
            base_url=server.url, headers=headers, trust_env=False, timeout=60
        ) as client:
            answer = await client.put("/api/images/small", content=too_much())
            assert answer.status_code == 413
            assert answer.json()["field"] == "images.max_mb"
            nothing = await client.put("/api/images/small")
            assert (nothing.status_code, nothing.json()["field"]) == (400, "body")
            with pytest.raises(ConnectionError):
                await client.put("/api/images/small", content=broken())

    asyncio.run(send())
    assert host.wait_until(lambda: not list((server.data_dir / "images/uploads").iterdir()))
    with client_of(server, tokens["admin"]) as http:
        assert http.get("/api/images").json() == []


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="apt-get install mmdebstrap uidmap")
def test_a_debian_image_over_http(data_dir: Path) -> None:
    with Server(data_dir) as server, client_of(server, None) as http:
        job = http.post("/api/images", json={"name": "debian", "packages": ["jq"]}).json()
        while job["state"] == "running":
            params = {"after": job["said"], "wait_seconds": 20}
            job = http.get(f"/api/image-jobs/{job['id']}", params=params).json()
        assert job["state"] == "done", job
        assert http.get("/api/images/debian").json() == job["image"]
        assert http.delete("/api/images/debian").status_code == 204
