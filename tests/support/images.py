"""Archives of images, made by hand: honest ones, small enough for every run, and all others."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
TOOLS = ("bash", "cat", "ls")
BOUNDS = {"most_bytes": 1 << 30, "most_entries": 10_000, "most_ratio": 200, "min_free": 0}


def entry(name: str, content: bytes | None = None, **fields) -> tuple[tarfile.TarInfo, bytes]:
    """A file, or what ``type`` says; a name that ends in / is a directory."""
    info = tarfile.TarInfo(name)
    info.mode = 0o755
    if name.endswith("/"):
        info.type = tarfile.DIRTYPE
    for field, value in fields.items():
        setattr(info, field, value)
    info.size = fields.get("size", len(content or b""))
    return info, content or b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def tar(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def bash() -> tuple[tarfile.TarInfo, bytes]:
    """Something that looks like a shell of this machine; it cannot run."""
    with open(os.path.realpath(sys.executable), "rb") as file:
        return entry("bin/bash", file.read(64))


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(data: bytes, **more) -> dict:
    return {"digest": digest(data), "size": len(data)} | more


class Oci:
    """An OCI layout of one image."""

    def __init__(self, *layers: bytes, env: list[str] | None = None, **config) -> None:
        self.blobs: dict[str, bytes] = {}
        fields = {
            "architecture": MACHINE,
            "os": "linux",
            "config": {"Env": env or []},
            "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in layers]},
        } | config
        compressed = [gzip.compress(each, mtime=0) for each in layers]
        self.config = json.dumps(fields).encode()
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "config": self.put(self.config),
                "layers": [self.put(each) for each in compressed],
            }
        ).encode()
        self.index = {"schemaVersion": 2, "manifests": [self.put(self.manifest)]}

    def put(self, data: bytes, **more) -> dict:
        self.blobs[digest(data)] = data
        return descriptor(data, **more)

    def files(self) -> dict[str, bytes]:
        files = {f"blobs/{name.replace(':', '/')}": data for name, data in self.blobs.items()}
        return files | {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": json.dumps(self.index).encode(),
        }

    def tar(self) -> bytes:
        return tar(*(entry(name, data) for name, data in self.files().items()))

    def write(self, directory: Path) -> Path:
        for name, data in self.files().items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return directory


def docker(*layers: bytes, tags: list[str] | None = None, **manifest) -> bytes:
    """What ``docker save`` wrote before version 25."""
    config = json.dumps(
        {"architecture": MACHINE, "rootfs": {"diff_ids": [digest(each) for each in layers]}}
    ).encode()
    names = [f"{hashlib.sha256(each).hexdigest()}/layer.tar" for each in layers]
    fields = {"Config": "config.json", "RepoTags": tags, "Layers": names} | manifest
    files = {"manifest.json": json.dumps([fields]).encode(), "config.json": config}
    files |= dict(zip(names, layers, strict=True))
    return tar(*(entry(name, data) for name, data in files.items()))


def small_root(*more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A root file system with this host's bash, some tools and their libraries, and no more."""
    paths = [f"/bin/{tool}" for tool in TOOLS]
    said = subprocess.run(["ldd", *paths], capture_output=True, text=True, check=True).stdout
    words = [word for line in said.splitlines() for word in line.split()]
    libraries = {word for word in words if word.startswith("/") and not word.endswith(":")}
    entries = [
        entry(path[1:], Path(path).read_bytes(), mtime=1_000_000_000)
        for path in sorted({*paths, *libraries})
    ]
    return tar(*entries, link("bin/sh", "bash"), *more)
