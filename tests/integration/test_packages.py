"""Packages that executions ask for, from indexes of the tests' own."""

import asyncio
import base64
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.engine.executions.execution import Watcher
from mulligan.errors import (
    ApprovalRequired,
    ExecutionFailed,
    PackagesNotFound,
    RequirementsRefused,
    ValidationFailed,
)
from mulligan.models import (
    ApprovalAnswer,
    ForkRequest,
    HistoryQueryRequest,
    RollbackTo,
    VmExecuteRequest,
    VmExecuteResponse,
    WarmRequest,
)
from mulligan.settings import Settings
from support import host, packages
from support.packages import Index

pytestmark = pytest.mark.anyio
Run = Callable[..., Awaitable[VmExecuteResponse]]
CONFIGURED = {
    name: os.environ[name]
    for name in os.environ
    if name.lower().startswith(("pip_", "uv_", "npm_config_"))
}
SECRET = "made-up-" + "password"
BASIC = "Basic " + base64.b64encode(f"somebody:{SECRET}".encode()).decode()

LIBRARY = "library-1.0-py3-none-any.whl"
# A package's module that, where it is run while its set is made, says the set is another one.
LIAR = """
import os, pathlib, sys
if sys.prefix.startswith("/packages/"):
    place = pathlib.Path(sys.prefix)
    try:
        (place / "code-of-a-package-ran").touch()
        for each in pathlib.Path(__file__).parent, place:
            (each / "library.py").write_text("VERSION = 'of a liar'")
        for lock in pathlib.Path("/").glob("*/*.txt"):
            lock.write_text("{name}==1.0 --hash=sha256:{digest}")
    except OSError:
        pass  # in the VM that uses the set
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("index")
    main = "def main():\n    print('script', VERSION)\n"
    packages.wheel(place, "first", "1.0", requires=("second>=2",), code=main, script=True)
    packages.wheel(place, "second", "1.0")
    packages.wheel(place, "second", "2.5")
    packages.wheel(place, "conflict", "1.0", requires=("second<2",))
    packages.wheel(place, "library")
    packages.wheel(place, "json", "9.9")  # its name is the standard library's
    packages.wheel(place, "hooked", files={"hooked.pth": "import sys; sys.hooked = True\n"})
    packages.source(place, "sourced")
    packages.npm_package(place / "npm", "left", "1.0.0")
    packages.npm_package(place / "npm", "left", "1.2.0")
    touch = {"postinstall": "node -e \"require('fs').writeFileSync('ran', '')\""}
    packages.npm_package(place / "npm", "@scope/right", "3.0.0", scripts=touch)
    return place


@pytest.fixture(autouse=True)
def configured(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """What pip, uv and npm are configured with: an index that wants a password."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name.lower().startswith("npm_config_"):
            monkeypatch.delenv(name)
    with packages.index(files, BASIC) as served:
        with_password = served.simple.replace("://", f"://somebody:{SECRET}@")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", with_password)
        place = served.npm.removeprefix("http:")
        coded = base64.b64encode(SECRET.encode()).decode()
        npmrc = tmp_path / "npmrc"
        npmrc.write_text(
            f"registry={served.npm}\n{place}:username=somebody\n{place}:_password={coded}\n"
        )
        monkeypatch.setenv("NPM_CONFIG_USERCONFIG", str(npmrc))
        yield served


@pytest.fixture
async def engine(data_dir: Path) -> AsyncIterator[Engine]:
    before = host.descendants(os.getpid())
    async with Engine(settings_module.load(data_dir=data_dir)) as opened:
        yield opened
    assert not host.descendants(os.getpid()) - before
    assert not list((data_dir / "packages" / "builders" / "vms").iterdir())


def asked(code: str, *requirements: str, language: str = "python", **more) -> VmExecuteRequest:
    return VmExecuteRequest(
        agent_id="tester", language=language, code=code, requirements=list(requirements), **more
    )


@pytest.mark.usefixtures("each_driver")
async def test_a_set_is_there_for_who_asks_and_for_nobody_else(
    engine: Engine, configured: Index, data_dir: Path
) -> None:
    code = "import first, second; print(first.VERSION, second.VERSION)"
    done = await engine.execute(asked(code, "first"))
    assert (done.stdout, done.stderr) == ("1.0 2.5\n", "")
    assert done.packages == ["first==1.0", "second==2.5"]
    count = len(configured.asked)
    again = await engine.execute(asked(code, "First"))  # its normal name is the same
    assert again.stdout == "1.0 2.5\n"
    assert len(configured.asked) == count  # nobody was asked again
    without = await engine.execute(asked("import first"))
    assert "ModuleNotFoundError" in without.stderr
    assert without.packages == []
    entry = engine.history.get(again.execution_id)
    assert entry is not None
    assert entry.packages == again.packages
    (found,) = engine.packages.list()
    assert all(each.hashes for each in found.packages)
    assert SECRET not in "".join(p.read_text() for p in data_dir.glob("packages/records/*"))


@pytest.mark.usefixtures("each_driver")
async def test_several_sets_live_in_one_vm_at_once(engine: Engine) -> None:
    code = "import second, time; time.sleep(.2); print(second.VERSION)"
    requests = [asked(code, "second<2"), asked(code, "second>2"), asked(code, "conflict")]
    done = await asyncio.gather(*map(engine.execute, requests))
    assert [each.stdout for each in done] == ["1.0\n", "2.5\n", "1.0\n"]
    assert len({each.vm_id for each in done}) == 1


@pytest.mark.usefixtures("each_driver")
async def test_an_interpreter_is_as_one_of_a_virtual_environment(engine: Engine) -> None:
    code = """
import json, subprocess, sys, sysconfig
import first
ours = sys.path.index(sys.prefix + f"/lib/python3.{sys.version_info[1]}/site-packages")
print(json.__file__.startswith(sysconfig.get_path("stdlib")), ours > sys.path.index(
    sysconfig.get_path("stdlib")))
say = "import first, sys; print(first.__file__, sys.prefix, [p for p in sys.path if '3.' in p])"
theirs = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True).stdout
ours = [path for path in sys.path if "3." in path]
print(theirs.strip() == f"{first.__file__} {sys.prefix} {ours}" or (theirs, ours))
print(subprocess.run(["first"], capture_output=True, text=True).stdout.strip())
from importlib.metadata import version
print(version("first"), sys.hooked)
"""
    for more in ({}, {"env": {"LC_ALL": "C.UTF-8"}}):  # from the zygote, and by its own start
        done = await engine.execute(asked(code, "first", "json", "hooked", **more))
        assert done.stderr == ""
        assert done.stdout == "True True\nTrue\nscript 1.0\n1.0 True\n"


@pytest.mark.usefixtures("each_driver")
async def test_programs_find_no_set_but_their_own_and_write_to_none(engine: Engine) -> None:
    await engine.execute(asked("1", "second"))
    code = """
import os, first
for what in (lambda: os.listdir("/packages"), lambda: open(first.__file__, "a"),
             lambda: os.chmod("/packages", 0o777), lambda: os.rename("/packages", "/moved")):
    try:
        print("could", what())
    except OSError as error:
        print(error.strerror)
"""
    done = await engine.execute(asked(code, "first"))
    assert "could" not in done.stdout
    assert done.stderr == ""


@pytest.mark.usefixtures("each_driver")
async def test_kernels_take_sets_up(engine: Engine) -> None:
    await engine.execute(asked("kept = 1", kernel="k"))
    done = await engine.execute(asked("import second; second.VERSION, kept", "second", kernel="k"))
    assert done.result == "('2.5', 1)"
    assert (await engine.execute(asked("second.VERSION", kernel="k"))).result == "'2.5'"
    fresh = await engine.execute(asked("import second; second.VERSION", "second", kernel="new"))
    assert fresh.result == "'2.5'"
    done = await engine.execute(asked("import hooked; hooked.VERSION", "hooked", kernel="new"))
    assert done.result == "'1.0'"


@pytest.mark.usefixtures("each_driver")
async def test_sets_stay_through_rollbacks_and_forks(engine: Engine) -> None:
    write = "import second; open('f', 'w').write(second.VERSION); print(open('f').read())"
    done = await engine.execute(asked(write, "second"))
    await engine.past.rollback(done.vm_id, RollbackTo(snapshot_id=done.snapshot_before))
    again = await engine.execute(asked(write, "second"))
    assert again.stdout == "2.5\n"
    read = "import second; print(open('f').read() == second.VERSION)"
    (fork,) = (await engine.past.fork(done.vm_id, ForkRequest())).vms
    forked = await engine.execute(asked(read, "second", vm_id=fork.id))
    assert forked.stdout == "True\n"


async def test_one_build_for_all_who_ask_at_once(engine: Engine, configured: Index) -> None:
    said: list[str] = []

    class Told(Watcher):
        def progress(self, text: str) -> None:
            said.append(text)

    requests = [asked("import first; print(1)", "first") for _ in range(5)]
    done = await asyncio.gather(*(engine.execute(each, watcher=Told()) for each in requests))
    assert [each.stdout for each in done] == ["1\n"] * 5
    assert len(engine.packages.list()) == 1
    assert configured.asked.count("/simple/first/") <= 2  # to resolve, and to install
    assert said.count("packages: finding the versions") == 5


async def test_a_set_answers_for_what_it_was_made_for_alone(
    engine: Engine, configured: Index, data_dir: Path
) -> None:
    """What a builder says it made is believed for who asked for that, and for nobody else."""
    digest = hashlib.sha256((configured.directory / LIBRARY).read_bytes()).hexdigest()
    lying = LIAR.format(name="library", digest=digest)
    files = {"liar.pth": "import liar\n"}
    packages.wheel(configured.directory, "liar", code=lying, files=files)
    code = "import library; print(library.VERSION)"
    await engine.execute(asked(code, "liar"))
    done = await engine.execute(asked(code, "library"))
    assert (done.stdout, done.stderr) == ("1.0\n", "")
    assert done.packages == ["library==1.0"]
    found = engine.packages.list()
    assert [each.pins() for each in found] == [["library==1.0"], ["liar==1.0"]]
    assert not list(data_dir.glob("packages/pool/*/code-of-a-package-ran"))


async def test_what_is_asked_for_again_and_comes_to_the_same_is_kept_once(engine: Engine) -> None:
    for _ in range(2):
        await engine.packages.warm(WarmRequest(requirements=["second"], refresh=True))
    (found,) = engine.packages.list()
    await engine.execute(asked("1", "second>=2"))
    both = engine.packages.list()
    assert {each.key for each in both} == {found.key}
    assert len({each.id for each in both}) == 2


@pytest.mark.parametrize(
    ("requirements", "said"),
    [
        (["no-such-package"], "no-such-package was not found in the package registry"),
        (["conflict", "first"], "requirements are unsatisfiable"),
        (["second==7"], "there is no version of second==7"),
        (["sourced"], "building from source is disabled"),
    ],
)
async def test_what_cannot_be_had_is_refused_with_the_resolvers_words(
    engine: Engine, requirements: list[str], said: str, configured: Index
) -> None:
    with pytest.raises(RequirementsRefused, match=said) as caught:
        await engine.execute(asked("1", *requirements))
    text = str(caught.value)
    assert len(text) < 2100
    assert text.isprintable()
    assert "127.0.0.1" not in text
    assert caught.value.remedy
    assert SECRET not in text
    assert engine.packages.list() == []


async def test_refusals_are_in_the_history(engine: Engine) -> None:
    done = await engine.execute(asked("1"))
    with pytest.raises(RequirementsRefused):
        await engine.execute(asked("1", "no-such-package"))
    refused = engine.history.query(HistoryQueryRequest(vm_id=done.vm_id)).entries[0]
    assert refused.outcome == "refused"
    assert "no-such-package" in (refused.error or "")


@pytest.mark.usefixtures("each_driver")
async def test_packages_of_javascript(engine: Engine, configured: Index) -> None:
    code = (
        "const fs = require('fs'); console.log(require('left'), require('@scope/right'));"
        "console.log(fs.existsSync(process.env.NODE_PATH + '/@scope/right/ran'));"
        "import('left').then((found) => console.log(found.default))"
    )
    done = await engine.execute(asked(code, "left@1", "@scope/right", language="javascript"))
    assert (done.stdout, done.stderr) == ("1.2.0 3.0.0\nfalse\n1.2.0\n", "")
    assert done.packages == ["@scope/right@3.0.0", "left@1.2.0"]
    assert set(configured.seen) == {BASIC}
    kernel = {"language": "javascript", "kernel": "js"}
    await engine.execute(asked("1", **kernel))
    done = await engine.execute(asked("require('left')", "left@1.0.0", **kernel))
    assert done.result == "'1.0.0'"
    with pytest.raises(RequirementsRefused, match="No matching version found for left@7"):
        await engine.execute(asked("1", "left@7", language="javascript"))
    with pytest.raises(RequirementsRefused, match="404"):
        await engine.execute(asked("1", "absent", language="javascript"))


async def test_an_index_that_is_gone_is_no_fault_of_the_request(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    with pytest.raises(ExecutionFailed, match="package index cannot be reached") as caught:
        await engine.execute(asked("1", "first"))
    assert "configured" in (caught.value.remedy or "")


async def test_flat_lists_of_links_and_directories(
    engine: Engine, files: Path, monkeypatch: pytest.MonkeyPatch, configured: Index
) -> None:
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(files))
    done = await engine.execute(asked("import first; print(first.VERSION)", "first"))
    assert done.stdout == "1.0\n"
    assert configured.asked == []


async def test_a_person_is_asked_before_an_index_is(data_dir: Path, configured: Index) -> None:
    settings = settings_module.load(data_dir=data_dir)
    async with Engine(settings) as engine:
        request = VmExecuteRequest(
            agent_id="a",
            language="python",
            code="import os, first; os.system('git clean -fdx')",
            requirements=["first"],
        )
        with pytest.raises(ApprovalRequired) as caught:
            await engine.execute(request)
        assert configured.asked == []
        (question,) = await engine.gates.questions()
        assert "first" in question.prompt
        await engine.gates.answer(question.id, ApprovalAnswer(approve=True))
        other = request.model_copy(
            update={"requirements": ["second"], "approval": caught.value.approval_id}
        )
        with pytest.raises(Exception, match="approv"):
            await engine.execute(other)
        assert configured.asked == []
        good = request.model_copy(update={"approval": caught.value.approval_id})
        assert (await engine.execute(good)).packages == ["first==1.0", "second==2.5"]


async def test_sets_are_listed_removed_and_warmed(engine: Engine) -> None:
    made = await engine.packages.warm(WarmRequest(requirements=["second"]))
    done = await engine.execute(asked("import second", "second"))
    assert done.outcome == "success"
    with pytest.raises(ExecutionFailed, match="may use it"):
        await engine.packages.remove(made.id)
    await engine.fleet.find(done.vm_id).stop()
    await engine.packages.remove(made.id)
    assert engine.packages.list() == []
    with pytest.raises(PackagesNotFound):
        await engine.packages.remove(made.id)
    with pytest.raises(ValidationFailed, match="is empty"):
        await engine.packages.warm(WarmRequest(requirements=[]))


async def test_sets_outlive_their_server_and_go_when_unused(
    data_dir: Path, configured: Index
) -> None:
    limits = {"unused_days": 1}
    settings: Settings = settings_module.load(data_dir=data_dir, packages=limits)
    async with Engine(settings) as engine:
        first = await engine.packages.warm(WarmRequest(requirements=["second"]))
    async with Engine(settings) as engine:
        count = len(configured.asked)
        again = await engine.packages.warm(WarmRequest(requirements=["second"]))
        assert again.id == first.id
        assert len(configured.asked) == count
    (record,) = (data_dir / "packages" / "records").glob("*.json")
    long_ago = time.time() - 2 * 86400
    os.utime(record, (long_ago, long_ago))
    async with Engine(settings) as engine:
        await engine.packages.collect()
        assert engine.packages.list() == []
    assert not list((data_dir / "packages" / "pool").iterdir())


async def test_a_build_that_is_cut_short_leaves_nothing(data_dir: Path, configured: Index) -> None:
    configured.hold = threading.Event()
    async with Engine(settings_module.load(data_dir=data_dir)) as engine:
        task = asyncio.create_task(engine.execute(asked("1", "first")))
        while not configured.asked:
            await asyncio.sleep(0.01)
    with pytest.raises(ExecutionFailed, match="shutting down"):
        await task
    configured.hold.set()
    left = [each for each in (data_dir / "packages").rglob("*") if each.is_file()]
    assert left == []


async def test_packages_of_the_index_this_host_has(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CONFIGURED.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "NPM_CONFIG_USERCONFIG"):
        if name not in CONFIGURED:
            monkeypatch.delenv(name)
    async with Engine(settings_module.load(data_dir=data_dir)) as engine:
        try:
            code = "import pandas; print(pandas.DataFrame({'a': [20, 22]}).a.sum())"
            done = await engine.execute(asked(code, "numpy", "pandas"))
            script = "console.log(require('lodash').sum([20, 22]))"
            other = await engine.execute(asked(script, "lodash", language="javascript"))
        except ExecutionFailed as error:
            if "index" in str(error):
                pytest.skip(f"no index here: {error}")
            raise
    assert (done.stdout, other.stdout) == ("42\n", "42\n")
