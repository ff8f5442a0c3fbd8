"""Images beside the host's own: taken in, used by VMs, and kept while anything uses them."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mulligan import settings as settings_module
from mulligan.cli.app import app
from mulligan.engine.engine import Engine
from mulligan.engine.images.importing import Importer
from mulligan.engine.vms.state import VmState
from mulligan.errors import (
    ConfigError,
    ExecutionFailed,
    InternalError,
    UnsupportedLanguage,
    ValidationFailed,
)
from mulligan.images.store import ImageRecord, ImageStore
from mulligan.models import (
    ForkRequest,
    RollbackTo,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.settings import Settings
from support import host
from support.images import Oci, entry, hard, small_root, tar

pytestmark = pytest.mark.anyio
MARK = entry("etc/mark", b"of the image\n", mode=0o644)
TYPES = {"small": {"image": "small"}, "plain": {}}


def settings_of(directory: Path, **more) -> Settings:
    chosen = {"vm_types": TYPES, "default_vm_type": "small"} | more
    return settings_module.load(data_dir=directory, **chosen)


def taken(directory: Path, archive: bytes, name: str = "small") -> ImageRecord:
    """An image of an archive."""
    path = directory.parent / f"{directory.name}.tar"
    path.write_bytes(archive)
    try:
        with Importer(settings_module.load(data_dir=directory)) as importer:
            return asyncio.run(importer.take(name, path, "a test"))
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def ready() -> Iterator[Path]:
    """A data directory with an image called small."""
    with host.data_directory() as path:
        taken(path, Oci(small_root(MARK), tar(entry("bin/.wh.ls")), env=["GREETING=hello"]).tar())
        yield path


class Vms:
    """VMs of an engine, by few words."""

    def __init__(self, engine: Engine, agent: str = "a") -> None:
        self.engine = engine
        self.agent = agent

    async def make(self, vm_type: str) -> str:
        request = VmCreateRequest(agent_id=self.agent, vm_name=vm_type, vm_type=vm_type)
        vm = await self.engine.create_vm(request)
        assert vm.driver == os.environ.get("MULLIGAN_DRIVER", "bubblewrap")
        return vm.id

    async def run(self, vm_id: str, code: str, **more) -> VmExecuteResponse:
        fields = {"language": "bash"} | more
        return await self.engine.execute(
            VmExecuteRequest(agent_id=self.agent, vm_id=vm_id, code=code, **fields)
        )

    async def text(self, vm_id: str, code: str, **more) -> str:
        response = await self.run(vm_id, code, **more)
        assert response.outcome == "success", (response.stderr, response.error)
        return response.stdout


@pytest.mark.usefixtures("each_driver")
async def test_vms_of_different_images_side_by_side(ready: Path) -> None:
    async with Engine(settings_of(ready)) as engine:
        vms = Vms(engine)
        small, plain = await vms.make("small"), await vms.make("plain")
        assert await vms.text(
            small, "cat /etc/mark; echo $GREETING $HOME; type -p ls || echo none"
        ) == ("of the image\nhello /home/agent\nnone\n")
        assert "python3" not in await vms.text(small, "echo /usr/bin/* /bin/*")
        assert (await vms.run(plain, "cat /etc/mark")).outcome == "failed"
        assert (
            await vms.text(plain, "echo $GREETING; type -p ls; id -un") == "\n/usr/bin/ls\nagent\n"
        )
        assert engine.languages() == ["bash"]
        with pytest.raises(UnsupportedLanguage, match="python") as refused:
            await vms.run(small, "pass", language="python")
        assert refused.value.remedy == "its VM is of an image without it, which has: bash"
        known = ImageStore(ready / "images").names()["small"]
        assert [engine.get_vm(each).image for each in (small, plain)] == [known, None]
        for vm_id in (small, plain):
            await engine.delete_vm(vm_id)


@pytest.mark.usefixtures("each_driver")
async def test_an_image_is_read_only_and_what_is_written_is_the_vms(ready: Path) -> None:
    async with Engine(settings_of(ready)) as engine:
        vms = Vms(engine)
        one, other = await vms.make("small"), await vms.make("small")
        await vms.text(one, "echo changed > /etc/mark; echo mine > /workspace/f")
        assert await vms.text(one, "cat /etc/mark") == "changed\n"
        assert await vms.text(other, "cat /etc/mark") == "of the image\n"
        written = await engine.files.list(one, "/workspace")
        assert [each.name for each in written.entries] == ["f"]
        found = await engine.past.diff(one)
        assert found.entries == []
        await engine.past.rollback(one, RollbackTo())
        assert (
            await vms.text(one, "cat /etc/mark; echo /workspace/*")
            == "of the image\n/workspace/*\n"
        )
        for vm_id in (one, other):
            await engine.delete_vm(vm_id)


@pytest.mark.usefixtures("each_driver")
async def test_kernels_terminals_and_forks(ready: Path) -> None:
    async with Engine(settings_of(ready)) as engine:
        vms = Vms(engine)
        vm_id = await vms.make("small")
        await vms.text(vm_id, "x=1; echo kept > f", kernel="k")
        snapshot = await vms.run(vm_id, "x=2", kernel="k")
        await engine.past.rollback(vm_id, RollbackTo(execution_id=snapshot.execution_id))
        assert await vms.text(vm_id, "echo $x; cat f", kernel="k") == "1\nkept\n"
        forked = await engine.past.fork(vm_id, ForkRequest())
        assert await vms.text(forked.vms[0].id, "cat f /etc/mark") == "kept\nof the image\n"
        for each in (vm_id, forked.vms[0].id):
            await engine.delete_vm(each)


@pytest.mark.long
async def test_spare_vms_are_of_their_types_image(ready: Path) -> None:
    types = {"small": {"image": "small", "warm": 1}, "plain": {}}
    async with Engine(settings_of(ready, vm_types=types)) as engine:
        vms = Vms(engine, "newcomer")
        engine.fleet.spares.tend()
        await engine.fleet.spares.settle()
        assert engine.fleet.spares.ready("small", None) == 1
        vm_id = await vms.make("small")
        assert engine.fleet.vms[vm_id].connection is not None  # it was up
        assert await vms.text(vm_id, "cat /etc/mark") == "of the image\n"
        await engine.delete_vm(vm_id)


@pytest.mark.usefixtures("each_driver")
async def test_layers_are_never_above_another_image(ready: Path) -> None:
    async with Engine(settings_of(ready)) as engine:
        vms = Vms(engine)
        small, plain = await vms.make("small"), await vms.make("plain")
        for vm_id in (small, plain):
            await vms.text(vm_id, "echo > f")
            await vms.text(vm_id, "echo >> f")  # what was written before is a layer now
        machines = [engine.fleet.vms[each] for each in (small, plain)]
        bases = [machine.state.base for machine in machines]
        assert None not in bases
        await machines[0].stop()
        # As nothing that users can ask for does.
        machines[0].state = VmState(base=bases[1], generation=machines[0].state.generation)
        with pytest.raises(
            (InternalError, ExecutionFailed), match="is of image host, and the VM of"
        ):
            await vms.run(small, "cat f")
        machines[0].state = VmState(base=bases[0], generation=machines[0].state.generation)
        assert await vms.text(small, "cat f") == "\n\n"
        for vm_id in (small, plain):
            await engine.delete_vm(vm_id)


async def test_a_type_of_no_image_is_refused_at_the_start(ready: Path) -> None:
    chosen = settings_of(ready, vm_types={"odd": {"image": "moon"}}, default_vm_type="odd")
    with pytest.raises(ConfigError, match="there is no image 'moon'") as refused:
        async with Engine(chosen):
            pass
    assert refused.value.field == "vm_types.odd.image"
    assert "host, small" in (refused.value.remedy or "")


async def test_vms_keep_their_image_whatever_its_name_stands_for(data_dir: Path) -> None:
    first = await asyncio.to_thread(taken, data_dir, small_root(MARK))
    async with Engine(settings_of(data_dir)) as engine:
        vm_id = await Vms(engine).make("small")
    other = await asyncio.to_thread(taken, data_dir, small_root(entry("etc/mark", b"second\n")))
    assert other.digest != first.digest
    async with Engine(settings_of(data_dir)) as engine:
        vms = Vms(engine)
        new = await vms.make("small")
        assert await vms.text(vm_id, "cat /etc/mark") == "of the image\n"
        assert await vms.text(new, "cat /etc/mark") == "second\n"
        assert engine.fleet.vms[vm_id].record.image == first.digest


# The command line, which works beside a server


def image(directory: Path, *words: str, ok: bool = True) -> Result:
    done = CliRunner().invoke(app, ["image", *words, "--data-dir", str(directory)])
    assert (done.exit_code == 0) is ok, done.output
    return done


def said(done: Result) -> str:
    """What it said, or failed with."""
    return done.output + str(done.exception or "")


def test_the_command_line(data_dir: Path, tmp_path: Path) -> None:
    assert "no images" in image(data_dir, "ls").output
    archive = tmp_path / "root.tar.gz"
    archive.write_bytes(small_root(MARK))
    shown = image(data_dir, "import", "small", str(archive)).output
    assert "bash        /bin/bash: GNU bash" in shown
    (listed,) = json.loads(image(data_dir, "ls", "--json").output)
    assert (listed["name"], listed["kind"], listed["source"]) == ("small", "tar", "root.tar.gz")
    assert listed["digest"] in image(data_dir, "show", "small").output
    image(data_dir, "import", "again", str(archive))
    image(data_dir, "rm", "small")
    assert ImageStore(data_dir / "images").get(listed["digest"]) is not None
    image(data_dir, "rm", "again")
    assert ImageStore(data_dir / "images").get(listed["digest"]) is None
    left = {path.name for path in (data_dir / "images/work").iterdir()}
    assert {name for name in left if not name.startswith("bwrap-")} <= {"lock", "layers", "vms"}
    assert not list((data_dir / "images/store").iterdir())
    for words in (["rm", "small"], ["show", "small"]):
        assert "no image 'small'" in said(image(data_dir, *words, ok=False))


@pytest.mark.parametrize("name", ["host", "Large", "../x", "", ".x", "x" * 64])
def test_names(data_dir: Path, tmp_path: Path, name: str) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(b"")
    assert "no name for an image" in said(image(data_dir, "import", name, str(archive), ok=False))


def test_what_is_refused_leaves_nothing(data_dir: Path, tmp_path: Path) -> None:
    archive = tmp_path / "bad.tar"
    archive.write_bytes(small_root(hard("h", "../../etc/passwd")))
    assert ".. in its path" in said(image(data_dir, "import", "bad", str(archive), ok=False))
    dead = tar(entry("bin/bash", Path("/bin/bash").read_bytes()))  # without its libraries
    archive.write_bytes(dead)
    assert "none of its programs (bash) runs" in said(
        image(data_dir, "import", "bad", str(archive), ok=False)
    )
    (tmp_path / "layout/blobs").mkdir(parents=True)
    (tmp_path / "layout/oci-layout").symlink_to("/etc/passwd")
    refused = said(image(data_dir, "import", "bad", str(tmp_path / "layout"), ok=False))
    assert "Too many levels of symbolic links" in refused
    assert "no such" in said(image(data_dir, "import", "bad", "/nowhere", ok=False)).lower()
    assert "no images" in image(data_dir, "ls").output
    assert not list((data_dir / "images/work/layers").iterdir())
    assert not [path for path in (data_dir / "images/work").iterdir() if "made" in path.name]


def test_what_is_used_stays(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def while_open() -> str:
        async with Engine(settings_of(ready)) as engine:
            vm_id = await Vms(engine).make("small")
            with pytest.raises(ValidationFailed, match="used by a server that runs"):
                ImageStore(ready / "images").remove("small")
            return vm_id

    vm_id = asyncio.run(while_open())
    assert vm_id in said(image(ready, "rm", "small", ok=False))
    assert vm_id in image(ready, "show", "small").output

    async def delete() -> None:
        async with Engine(settings_of(ready)) as engine:
            await engine.delete_vm(vm_id)

    asyncio.run(delete())
    config = tmp_path / "mulligan.toml"
    config.write_text('[vm_types.mine]\nimage = "small"\n[vm_types.focal-optimized]\n')
    monkeypatch.setenv("MULLIGAN_CONFIG", str(config))
    assert "VM type mine has image small" in said(image(ready, "rm", "small", ok=False))


_STOPS = """
import asyncio, os, signal, sys
from pathlib import Path
from mulligan import settings
from mulligan.engine.images.importing import Importer

def progress(text):
    if text == "finishing":
        os.kill(os.getpid(), signal.SIGKILL)

with Importer(settings.load(data_dir=Path(sys.argv[1])), progress) as importer:
    asyncio.run(importer.take("small", Path(sys.argv[2]), "a test"))
"""


@pytest.mark.long
def test_a_killed_import_leaves_nothing(data_dir: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(small_root(MARK))
    done = subprocess.run(
        [sys.executable, "-c", _STOPS, str(data_dir), str(archive)], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert host.wait_until(lambda: not host.naming(data_dir / "images"))
    assert list((data_dir / "images/work/layers").iterdir())
    assert "no images" in image(data_dir, "ls").output
    image(data_dir, "import", "small", str(archive))
    assert not list((data_dir / "images/work/layers").iterdir())


# Debian


def test_building_says_what_it_lacks(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    refused = said(image(data_dir, "build", "debian", ok=False))
    assert "needs mmdebstrap" in refused


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--debian", "-x"], "no release of Debian"),
        (["--debian", "Book Worm"], "no release of Debian"),
        (["--packages", "jq,--purge"], "no name of a package: '--purge'"),
        (["--packages", "a/../b"], "no name of a package"),
        (["--mode", "magic"], "no mode: 'magic'"),
    ],
)
def test_what_no_build_is_started_for(data_dir: Path, words: list[str], why: str) -> None:
    assert why in said(image(data_dir, "build", "debian", *words, ok=False))


@pytest.mark.long
@pytest.mark.usefixtures("each_driver")
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="apt-get install mmdebstrap uidmap")
async def test_a_debian_image(data_dir: Path) -> None:
    packages = "python3,figlet,ca-certificates"
    await asyncio.to_thread(image, data_dir, "build", "debian", "--packages", packages)
    types = {"debian": {"image": "debian"}, "plain": {}}
    chosen = settings_of(data_dir, vm_types=types, default_vm_type="debian")
    async with Engine(chosen) as engine:
        vms = Vms(engine)
        vm_id = await vms.make("debian")
        assert "_" in await vms.text(vm_id, "figlet mulligan")
        assert await vms.text(vm_id, "import sys; print(sys.prefix)", language="python") == "/usr\n"
        await vms.text(vm_id, "x = 1", language="python", kernel="k")
        changed = await vms.run(vm_id, "x = 2", language="python", kernel="k")
        await engine.past.rollback(vm_id, RollbackTo(execution_id=changed.execution_id))
        assert await vms.text(vm_id, "print(x)", language="python", kernel="k") == "1\n"
        # Its own interpreter's, whatever the host's is.
        where = "import attrs, sys; print(attrs.__file__, sys.base_prefix)"
        asked = {"language": "python", "requirements": ["attrs"]}
        (known,) = (await vms.run(vm_id, where, **asked)).packages
        assert known.startswith("attrs==")
        found, prefix = (await vms.text(vm_id, where, **asked)).split()
        assert found.startswith("/packages/")
        assert prefix == "/usr"
        host = await vms.make("plain")
        assert (await vms.text(host, where, **asked)).split()[0] != found
        assert len(engine.packages.list()) == 2
        without = await vms.run(vm_id, where, language="python")
        assert "ModuleNotFoundError" in without.stderr
        with pytest.raises(UnsupportedLanguage):
            await vms.run(vm_id, "1", language="javascript", requirements=["lodash"])
