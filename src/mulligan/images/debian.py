"""Debian images, made by mmdebstrap from where this host gets its own packages.

Sources are those apt has here (sources.list(5), both formats), as far as they have the release that
is asked for; so are its proxies. No server is named in here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mulligan.errors import ConfigError, ExecutionFailed, ValidationFailed

APT = Path("/etc/apt")
# What would tell programs of this host: its mirrors, proxies and name servers.
FORGET = (
    'cd "$1" && rm -rf etc/apt/sources.list etc/apt/sources.list.d etc/apt/auth.conf* '
    "etc/apt/apt.conf.d/99mmdebstrap etc/resolv.conf var/log/apt var/log/bootstrap.log"
)
# mmdebstrap tidies up on a signal to all of its group. One comes also when our end of the shell's
# stdin closes, because we were killed.
SUPERVISED = """
place=$1
shift
trap : TERM
exec 3<&0 </dev/null
"$@" 3<&- &
own=$!
{ trap - TERM; read -r _ <&3; kill -TERM 0; } &
watcher=$!
wait "$own"; code=$?
while kill -0 "$own" 2>/dev/null; do wait "$own"; code=$?; done
kill -KILL "$watcher" 2>/dev/null
rm -rf -- "$place"
exit "$code"
"""
MODES = ("unshare", "root", "fakechroot")
MOST_PACKAGES = 500
GRACE_S = 60
LOOK_S = 0.2
SAID = 300
SUITE = re.compile(r"[a-z][a-z0-9.-]{0,40}")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,100}(?:=[A-Za-z0-9.+:~-]{1,100})?")
_LEFT_OUT = "-backports"
_PROXY = re.compile(r'(Acquire::https?::Proxy(?:::[^ "]+)?) "([^"]*)";')


@dataclass(frozen=True)
class Source:
    """A place apt gets packages from.

    Attributes:
        uris, suites, components: as sources.list(5) has them.
        options: the other fields, such as Signed-By, each as lines of text.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[str, ...] = ()

    def text(self) -> str:
        """A stanza of a deb822 file."""
        lines = [
            "Types: deb",
            f"URIs: {' '.join(self.uris)}",
            f"Suites: {' '.join(self.suites)}",
            f"Components: {' '.join(self.components)}",
            *self.options,
        ]
        return "\n".join(lines) + "\n"


def check(suite: str, packages: list[str], mode: str) -> None:
    """Refuses what is no release, no package and no mode.

    Raises:
        ValidationFailed: naming it.
    """
    if not SUITE.fullmatch(suite):
        raise ValidationFailed(
            f"no release of Debian: {suite[:100]!r}", field="debian", remedy="such as bookworm"
        )
    for package in packages:
        if not PACKAGE.fullmatch(package):
            raise ValidationFailed(
                f"no name of a package: {package[:100]!r}",
                field="packages",
                remedy="names of Debian packages with commas between them, such as python3,jq",
            )
    if len(packages) > MOST_PACKAGES:
        raise ValidationFailed(f"more than {MOST_PACKAGES} packages", field="packages")
    if mode not in MODES:
        raise ValidationFailed(
            f"no mode: {mode[:50]!r}", field="mode", remedy=f"one of {', '.join(MODES)}"
        )


def find_mmdebstrap() -> Path:
    """The program.

    Raises:
        ConfigError: this host has none.
    """
    found = shutil.which("mmdebstrap")
    if found is None:
        raise ConfigError(
            "building an image of Debian needs mmdebstrap, which is not on PATH",
            remedy="apt-get install mmdebstrap uidmap, or import an archive made elsewhere "
            "(mulligan image import)",
        )
    return Path(found)


def sources(suite: str, apt: Path = APT) -> list[Source]:
    """What this host's apt is configured with for a release.

    Where that is another release of Debian, its archive is asked for this one.
    """
    known = [each for each in _configured(apt) if "main" in each.components]
    fitting = [_restricted(each, suite) for each in known]
    found = [each for each in fitting if each.suites]
    if any(suite in each.suites for each in found):
        return found
    for each in known:
        uris = tuple(uri for uri in each.uris if uri.rstrip("/").endswith("/debian"))
        if uris:
            return [Source(uris, (suite,), ("main",), each.options)]
    return []


def _restricted(source: Source, suite: str) -> Source:
    own = tuple(
        each
        for each in source.suites
        if each == suite or (each.startswith(f"{suite}-") and not each.endswith(_LEFT_OUT))
    )
    return Source(source.uris, own, source.components, source.options)


def _configured(apt: Path) -> Iterator[Source]:
    parts = apt / "sources.list.d"
    for path in (apt / "sources.list", *sorted(parts.glob("*.list"))):
        if path.is_file():
            for line in path.read_text(errors="replace").splitlines():
                source = _of_line(line)
                if source is not None:
                    yield source
    for path in sorted(parts.glob("*.sources")):
        for stanza in re.split(r"\n[ \t]*\n", path.read_text(errors="replace")):
            source = _of_stanza(stanza)
            if source is not None:
                yield source


def _of_line(line: str) -> Source | None:
    """``deb [name=value …] uri suite component …``."""
    words = line.partition("#")[0].split()
    if not words or words[0] != "deb":
        return None
    options = []
    if len(words) > 1 and words[1].startswith("["):
        end = next((n for n, word in enumerate(words) if word.endswith("]")), None)
        if end is None:
            return None
        for each in " ".join(words[1 : end + 1]).strip("[] ").split():
            name, _, value = each.partition("=")
            if name == "signed-by":
                options.append(f"Signed-By: {value.replace(',', ' ')}")
        words = [words[0], *words[end + 1 :]]
    if len(words) < 4:  # noqa: PLR2004
        return None
    return Source((words[1],), (words[2],), tuple(words[3:]), tuple(options))


def _of_stanza(stanza: str) -> Source | None:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += f"\n{line}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
        return None
    options = (f"Signed-By: {fields['signed-by']}",) if "signed-by" in fields else ()
    uris, suites, components = (
        tuple(fields.get(each, "").split()) for each in ("uris", "suites", "components")
    )
    return Source(uris, suites, components, options) if uris and suites else None


def proxies() -> list[str]:
    """This host's proxies, as options of apt."""
    program = shutil.which("apt-config")
    if program is None:
        return []
    done = subprocess.run(
        [program, "dump"], capture_output=True, text=True, errors="replace", timeout=20, check=False
    )
    found = (_PROXY.fullmatch(line.strip()) for line in done.stdout.splitlines())
    return [f'{each[1]} "{each[2]}"' for each in found if each is not None and each[2]]


def build(
    suite: str,
    packages: list[str],
    mode: str,
    directory: Path,
    progress: Callable[[str], None],
    *,
    timeout_s: float,
    stopped: Callable[[], bool] = lambda: False,
) -> Path:
    """Makes a tar of a root file system.

    Args:
        suite, packages, mode: as ``check`` takes them.
        directory: existing; ``root.tar`` and ``build.log`` are made in it.
        progress: told what mmdebstrap is at.
        timeout_s: it is ended then.
        stopped: asked now and then; it is ended where this says so.

    Raises:
        ConfigError: this host has no mmdebstrap.
        ExecutionFailed: it failed; the text is the last of what it said.
    """
    target = directory / "root.tar"
    command = [str(find_mmdebstrap()), f"--mode={mode}", "--variant=minbase", "--format=tar"]
    if packages:
        command.append(f"--include={','.join(packages)}")
    command += [f"--aptopt={each}" for each in proxies()]
    command.append(f"--customize-hook={FORGET}")
    command += [suite, str(target)]
    found = sources(suite)
    if found:
        listed = directory / "build.sources"
        listed.write_text("\n".join(each.text() for each in found))
        command.append(str(listed))
    # Whoever is root in its namespaces has to get there.
    with tempfile.TemporaryDirectory(prefix="mulligan-image-", ignore_cleanup_errors=True) as place:
        Path(place).chmod(0o755)
        last = _run(command, Path(place), directory / "build.log", progress, stopped, timeout_s)
    if last is not None:
        raise ExecutionFailed(
            f"mmdebstrap failed: {last[:SAID]}",
            remedy="the log has all of it; where it may not make namespaces, --mode root does "
            "without, as root",
        )
    return target


def _run(
    command: list[str],
    place: Path,
    log: Path,
    progress: Callable[[str], None],
    stopped: Callable[[], bool],
    timeout_s: float,
) -> str | None:
    """Runs mmdebstrap; what it said last where it failed.

    It writes to a file, which is followed: a pipe would break under it when we are killed, and it
    could not tidy up.
    """
    with log.open("w", encoding="utf-8") as writing:
        process = subprocess.Popen(
            ["/bin/sh", "-c", SUPERVISED, "mmdebstrap", str(place), *command],
            stdin=subprocess.PIPE,
            stdout=writing,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"LC_ALL": "C.UTF-8", "TMPDIR": str(place)},
        )
    deadline = time.monotonic() + timeout_s
    said, code = "it said nothing", None
    try:
        with log.open(encoding="utf-8", errors="replace") as reading:
            while code is None:
                if time.monotonic() > deadline:
                    return f"it took longer than {timeout_s:g} s (images.timeout_seconds)"
                if stopped():
                    return "it was stopped"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(LOOK_S)
                said = _follow(reading, said, progress)
    finally:
        _end(process)
    return said if code else None


def _follow(reading: TextIO, said: str, progress: Callable[[str], None]) -> str:
    """Tells of what is new in the log; the line that says most of a failure, so far."""
    for line in reading:
        text = line.strip()
        if text.startswith(("I: ", "E: ")):
            progress(text[3:])
        if text.startswith("E: ") or not said.startswith("E: "):
            said = text or said
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends mmdebstrap, which takes away what it made; where it does not, all of its group."""
    assert process.stdin is not None
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
    process.stdin.close()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to a process and all of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
