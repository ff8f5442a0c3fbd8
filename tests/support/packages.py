"""Packages and indexes of tests' own, on loopback."""

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def wheel(
    directory: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: tuple[str, ...] = (),
    code: str | None = None,
    files: dict[str, str] | None = None,
    script: bool = False,
) -> Path:
    """Writes a wheel of a package with one module, which has VERSION; its path."""
    base = f"{name.replace('-', '_')}-{version}"
    module = name.replace("-", "_")
    content = {f"{module}.py": (code or "") + f"\nVERSION = {version!r}\n"} | (files or {})
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    content[f"{base}.dist-info/METADATA"] = metadata
    content[f"{base}.dist-info/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    if script:
        entry = f"[console_scripts]\n{name}={module}:main\n"
        content[f"{base}.dist-info/entry_points.txt"] = entry
    record = []
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record.append(f"{path},sha256={digest.decode()},{len(text.encode())}\n")
    content[f"{base}.dist-info/RECORD"] = "".join(record) + f"{base}.dist-info/RECORD,,\n"
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{base}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return target


def source(directory: Path, name: str, version: str = "1.0") -> Path:
    """Writes a source distribution that says so when it is built."""
    files = {
        "setup.py": "raise SystemExit('code of a package ran')\n",
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{name}-{version}.tar.gz"
    _tar(target, f"{name}-{version}", files)
    return target


def npm_package(
    directory: Path, name: str, version: str = "1.0.0", *, scripts: dict[str, str] | None = None
) -> Path:
    """Writes a tarball of an npm package whose module is its version; its path."""
    package = {"name": name, "version": version, "main": "index.js", "scripts": scripts or {}}
    files = {"package.json": json.dumps(package), "index.js": f"module.exports = '{version}';\n"}
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{name.rpartition('/')[2]}-{version}.tgz"
    _tar(target, "package", files)
    return target


def _tar(target: Path, top: str, files: dict[str, str]) -> None:
    with tarfile.open(target, "w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{top}/{path}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


@dataclass
class Index:
    """An index on loopback: a directory of files for Python, and one for npm.

    Attributes:
        url: of the server, without credentials.
        authorization: what it wants to see, if anything.
        asked: paths that were asked for, in order.
        seen: headers named Authorization that came along.
    """

    directory: Path
    authorization: str | None = None
    url: str = ""
    asked: list[str] = field(default_factory=list)
    seen: list[str | None] = field(default_factory=list)
    hold: threading.Event | None = None

    @property
    def simple(self) -> str:
        return f"{self.url}/simple/"

    @property
    def npm(self) -> str:
        return f"{self.url}/npm/"

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Content type and body; None: there is nothing."""
        parts = path.strip("/").split("/")
        if parts[0] == "simple" and len(parts) == 2:
            prefix = parts[1].replace("-", "_") + "_"
            names = [each.name for each in self.directory.glob("*") if each.name != "npm"]
            own = sorted(n for n in names if n.replace("-", "_").startswith(prefix))
            lines = [f'<a href="/files/{n}#{self._hash(n)}">{n}</a>' for n in own]
            return ("text/html", "\n".join(lines).encode()) if own else None
        if parts[0] == "files" and (self.directory / parts[1]).is_file():
            return "application/octet-stream", (self.directory / parts[1]).read_bytes()
        if parts[0] == "npm":
            return self._npm("/".join(parts[1:]).replace("%2f", "/"))
        return None

    def _hash(self, name: str) -> str:
        return "sha256=" + hashlib.sha256((self.directory / name).read_bytes()).hexdigest()

    def _npm(self, path: str) -> tuple[str, bytes] | None:
        place = self.directory / "npm"
        if path.endswith(".tgz"):
            return "application/octet-stream", (place / path.rpartition("/")[2]).read_bytes()
        versions = {}
        short = path.rpartition("/")[2]
        for each in place.glob(f"{short}-*.tgz"):
            version = each.name.removeprefix(f"{short}-").removesuffix(".tgz")
            with tarfile.open(each) as archive:
                member = archive.extractfile("package/package.json")
                assert member is not None
                package = json.load(member)
            digest = base64.b64encode(hashlib.sha512(each.read_bytes()).digest()).decode()
            dist = {"tarball": f"{self.npm}-/{each.name}", "integrity": f"sha512-{digest}"}
            versions[version] = package | {"dist": dist}
        if not versions:
            return None
        document = {"name": path, "versions": versions, "dist-tags": {"latest": max(versions)}}
        return "application/json", json.dumps(document).encode()


@contextmanager
def index(directory: Path, authorization: str | None = None) -> Iterator[Index]:
    """Serves an index."""
    served = Index(directory, authorization)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            served.seen.append(self.headers.get("Authorization"))
            if served.hold is not None:
                served.hold.wait(60)
            refused = authorization and self.headers.get("Authorization") != authorization
            found = None if refused else served.answer(self.path)
            content_type, body = found or ("text/plain", b"no")
            self.send_response(401 if refused else 200 if found else 404)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        if served.hold is not None:
            served.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
