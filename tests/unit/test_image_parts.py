"""Images on disk, what VMs get of them, and where Debian's packages come from."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mulligan.engine.executions.programs import program_of, rehearsal, steps_for
from mulligan.engine.packages.interpreters import interpreter_of
from mulligan.errors import ConfigError, ExecutionFailed, ValidationFailed
from mulligan.images import debian
from mulligan.images.host import HostImage
from mulligan.images.store import ImageRecord, ImageStore
from mulligan.images.stored import StoredImage, stored_image
from mulligan.images.toolchains import Toolchain, numbers
from mulligan.models import ImageProgram, VmExecuteRequest, utc_now
from mulligan.settings import Settings
from support import host

PYTHON = ImageProgram(path="/usr/bin/python3", version="Python 3.10.13")
BASH = ImageProgram(path="/bin/bash", version="GNU bash, version 5.2.15(1)-release")


def record(digest: str = "a", **more) -> ImageRecord:
    fields = {
        "digest": f"sha256:{digest * 64}",
        "kind": "tar",
        "source": "a test",
        "created_at": utc_now(),
        "programs": {"python": PYTHON, "bash": BASH},
        "search": ["/usr/bin", "/bin"],
        "env": {"HOME": "/root", "PATH": "/evil", "LD_PRELOAD": "/x.so", "GREETING": "hello"},
        "shell": "/bin/bash",
        "machine": "x86_64",
        "entries": 1,
        "bytes": 1,
    }
    return ImageRecord(**fields | more)


@pytest.fixture
def image(tmp_path: Path) -> StoredImage:
    own = HostImage(
        rootfs=tmp_path / "host/rootfs",
        agent=tmp_path / "host/agent",
        binds=(Path("/usr"),),
        symlinks=(("usr/bin", "/bin"),),
        toolchains={"python": Toolchain("python", Path("/opt/bin/python3"))},
    )
    return stored_image(record(), tmp_path / "rootfs", own)


def test_the_agent_has_nothing_of_an_image(image: StoredImage) -> None:
    assert image.python == Path("/opt/bin/python3")
    assert image.etc == image.host.rootfs / "etc"
    assert image.environment() == image.host.environment()
    assert image.binds == image.host.binds
    assert image.shown == ()
    assert image.variables == {
        "PATH": "/usr/bin:/bin",
        "SHELL": "/bin/bash",
        "LD_PRELOAD": "/x.so",
        "GREETING": "hello",
    }


def test_programs_of_an_image_are_started_by_their_own_interpreter(image: StoredImage) -> None:
    assert steps_for("python", image)[:2] == (
        "exec",
        [["/usr/bin/python3", "/run/mulligan/main.py"]],
    )
    assert steps_for("python", image.host)[0] == "python"
    assert rehearsal(image).runtime == "exec"
    rust = ImageProgram(path="/usr/bin/rustc", version="rustc 1.80.0")
    only = stored_image(record(programs={"rust": rust}), image.rootfs, image.host)
    assert rehearsal(only).steps == [["/usr/bin/rustc", "--version"]]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {"requirements": ["lodash"], "language": "javascript"},
            "no requirements of javascript in VMs of an image",
        ),
        ({"kernel": "k"}, "the Python of the VM's image is 3.10.13, and kernels need 3.11"),
    ],
)
def test_what_vms_of_an_image_do_not_have(image: StoredImage, more: dict, why: str) -> None:
    fields = {"language": "python"} | more
    node = {"javascript": ImageProgram(path="/usr/bin/node", version="v20.1.0")}
    both = stored_image(record(programs={"python": PYTHON} | node), image.rootfs, image.host)
    request = VmExecuteRequest(agent_id="a", code="pass", **fields)
    with pytest.raises(ValidationFailed, match=why):
        program_of(request, request.language, both, Settings())


@pytest.mark.parametrize("version", ["Python 3.8.19", "", "Python 2.7.18"])
def test_packages_need_a_python_that_can_install_them(image: StoredImage, version: str) -> None:
    old = {"python": ImageProgram(path="/usr/bin/python3", version=version)}
    request = VmExecuteRequest(agent_id="a", language="python", code="", requirements=["attrs"])
    with pytest.raises(ValidationFailed, match=r"requirements need 3\.9 or newer") as refused:
        program_of(
            request,
            "python",
            stored_image(record(programs=old), image.rootfs, image.host),
            Settings(),
        )
    assert refused.value.field == "requirements"
    assert program_of(request, "python", image, Settings()).steps[0][0] == "/usr/bin/python3"


def test_sets_of_packages_are_of_one_image(image: StoredImage) -> None:
    other = stored_image(record("1"), image.rootfs, image.host)
    keys = {interpreter_of("python", each) for each in (image, other)}
    assert len(keys) == 2
    with pytest.raises(ValidationFailed, match="no rust here"):
        interpreter_of("rust", image)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Python 3.11.2", (3, 11, 2)),
        ("v20.1.0", (20, 1, 0)),
        ("GNU bash, version 5.2.15(1)-release (x86_64)", (5, 2, 15)),
        ("", ()),
        ("1" * 10_000, ()),
    ],
)
def test_versions(said: str, version: tuple[int, ...]) -> None:
    assert numbers(said) == version


def test_certificates_of_an_image_are_read_in_its_tree(image: StoredImage, tmp_path: Path) -> None:
    certs = image.rootfs / "etc/ssl/certs"
    certs.mkdir(parents=True)
    (tmp_path / "secret").write_text("of the host")
    paths = ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem")
    for target in (f"{'../' * 30}{tmp_path}/secret", str(tmp_path / "secret"), "/dev/zero", "."):
        (certs / "ca-certificates.crt").unlink(missing_ok=True)
        (certs / "ca-certificates.crt").symlink_to(target)
        assert image.bundle(paths) is None
    (image.rootfs / "etc/ssl/cert.pem").symlink_to("/etc/pki/bundle.pem")
    (image.rootfs / "etc/pki").mkdir()
    (image.rootfs / "etc/pki/bundle.pem").write_text("certificates")
    assert image.bundle(paths) == ("/run/mulligan.pem", "certificates")


# The store


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "images/work").mkdir(parents=True)
    return ImageStore(tmp_path / "images")


def add(store: ImageStore, name: str, digest: str) -> ImageRecord:
    tree = store.work / f"{name}-{digest}" / "tree"
    tree.mkdir(parents=True)
    return store.add(name, record(digest), tree)


def test_names_are_of_what_is_in_an_image(store: ImageStore) -> None:
    first = add(store, "one", "a")
    assert add(store, "two", "a") == first  # as it was made first
    assert store.names() == {"one": first.digest, "two": first.digest}
    second = add(store, "one", "b")
    assert list(store.unnamed()) == []
    assert store.remove("two") == next(store.work.glob(".gone-*"))
    assert store.get(first.digest) is None
    add(store, "one", "c")
    assert list(store.unnamed()) == [second.digest]
    assert store.find("one") == store.get("sha256:" + "c" * 64)


def test_what_is_held_is_not_removed(store: ImageStore) -> None:
    found = add(store, "one", "a")
    held = store.hold(found.digest)
    assert held is not None
    with pytest.raises(ValidationFailed, match="used by a server"):
        store.remove("one")
    assert store.find("one") == found
    os.close(held)
    assert store.remove("one") is not None
    assert store.hold(found.digest) is None
    assert store.find("one") is None


def test_a_damaged_image_is_named(store: ImageStore) -> None:
    add(store, "one", "a")
    path = store.directory / "store" / ("a" * 64) / "image.json"
    path.write_text('{"digest": "sha256:other"}')
    with pytest.raises(ConfigError, match="is damaged"):
        store.find("one")
    with pytest.raises(ConfigError, match="no digest of an image"):
        store.rootfs("sha256:../../x")


# Debian

BOTH = """
Types: deb deb-src
# a comment
URIs: https://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: https://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Enabled: no
Types: deb
URIs: https://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://other.example/node
Suites: nodistro
Components: main

Types: deb-src
URIs: https://mirror.example/debian
Suites: bookworm
Components: main
"""
LINES = """
# deb https://off.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/debian bookworm main non-free # here
deb https://mirror.example/debian bookworm-updates main
deb https://other.example/apt stable contrib
deb-src https://mirror.example/debian bookworm main
deb [broken https://mirror.example/debian bookworm main
deb short
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    return tmp_path / "apt"


def test_sources_in_stanzas(apt: Path) -> None:
    (apt / "sources.list.d/debian.sources").write_text(BOTH)
    first, second = debian.sources("bookworm", apt)
    assert first.text() == (
        "Types: deb\nURIs: https://mirror.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main contrib\nSigned-By: /usr/share/keyrings/debian.gpg\n"
    )
    assert second.suites == ("bookworm-security",)
    assert second.text().endswith(" .\n abc\n")


def test_sources_in_lines(apt: Path) -> None:
    (apt / "sources.list").write_text(LINES)
    assert debian.sources("bookworm", apt) == [
        debian.Source(
            ("https://mirror.example/debian",),
            ("bookworm",),
            ("main", "non-free"),
            ("Signed-By: /k.gpg",),
        ),
        debian.Source(("https://mirror.example/debian",), ("bookworm-updates",), ("main",)),
    ]


def test_another_release_comes_from_the_same_archive(apt: Path) -> None:
    assert debian.sources("trixie", apt) == []
    (apt / "sources.list.d/debian.sources").write_text(BOTH)
    (found,) = debian.sources("trixie", apt)
    assert (found.uris, found.suites) == (("https://mirror.example/debian",), ("trixie",))


def program(directory: Path, text: str) -> None:
    """A program that behaves like mmdebstrap where that is hard to bring about."""
    path = directory / "mmdebstrap"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tools").mkdir()
    (tmp_path / "made").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}:/usr/bin:/bin")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "tools"


def build(tools: Path, progress=lambda _: None, timeout_s: float = 60) -> Path:
    made = tools.parent / "made"
    return debian.build("bookworm", ["jq"], "root", made, progress, timeout_s=timeout_s)


def test_a_build_tells_what_it_is_at(tools: Path) -> None:
    program(tools, 'echo "I: running apt-get update..." >&2; for a; do echo "$a" >&2; done')
    heard: list[str] = []
    build(tools, heard.append)
    log = (tools.parent / "made/build.log").read_text().splitlines()
    assert heard == ["running apt-get update..."]
    assert "--include=jq" in log
    assert "--mode=root" in log
    assert "bookworm" in log


def test_a_build_that_fails(tools: Path) -> None:
    program(tools, "echo 'E: unable to locate package jq'; echo 'I: removing tempdir'; exit 1")
    with pytest.raises(ExecutionFailed, match="mmdebstrap failed: E: unable to locate package jq"):
        build(tools)


def test_a_build_that_takes_too_long_is_asked_to_end(tools: Path) -> None:
    program(
        tools, "trap 'sleep 0.3; echo tidied; exit 1' TERM; echo up; while :; do sleep 0.05; done"
    )
    with pytest.raises(ExecutionFailed, match="took longer than"):
        build(tools, timeout_s=0.5)
    assert "tidied" in (tools.parent / "made/build.log").read_text()


_BUILDS = """
import os, signal, sys
from pathlib import Path
from mulligan.images import debian

def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)

debian.build("bookworm", [], "root", Path(sys.argv[1]), killed, timeout_s=60)
"""


def test_a_build_whose_builder_is_killed_tidies_up(tools: Path) -> None:
    tidied = tools.parent / "tidied"
    program(
        tools, f"trap 'touch {tidied}; exit 1' TERM; echo 'I: up'; while :; do sleep 0.05; done"
    )
    done = subprocess.run(
        [sys.executable, "-c", _BUILDS, str(tools.parent / "made")], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert host.wait_until(tidied.exists)
    assert host.wait_until(lambda: not host.naming(tools))
    assert not list((tools.parent / "tmp").iterdir())


def test_an_interrupted_build_ends(tools: Path) -> None:
    program(tools, "trap 'exit 1' TERM; echo 'I: up'; while :; do sleep 0.05; done")
    before = host.descendants(os.getpid())

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tools, interrupt)
    assert host.wait_until(lambda: not host.descendants(os.getpid()) - before)
