"""What the README and the pages of docs/ show is what happens.

Blocks of ``console`` and ``python`` are run; what is not to be run is ``text``. What talks to
``localhost:8080``, or to a client's default server, finds one there. ``…`` in what is shown stands
for anything.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mulligan.drivers.gvisor import runsc
from mulligan.drivers.qemu import image
from mulligan.errors import ConfigError
from mulligan.extraction import extract
from support import microvm
from support.host import check_has_what_it_types, data_directory
from support.server import Server, clean_environment
from support.typed import TYPED

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    if not (Path(__file__).parent / f"test_{page.stem}_docs.py").exists()  # tests of its own
]
SERVER = "localhost:8080"
DEFAULT_CLIENT = "VmExecutionClient()"  # it would go to that server, too
INCLUDED = "--8<--"  # a file of examples/, which has tests of its own


def blocks(page: Path, kind: str) -> list[tuple[str, str]]:
    """(block, the block of text right below it, if any) of each block of a kind."""
    text = page.read_text()
    found = [(each, each.metadata["info"]) for each in extract(text)]
    pairs = []
    for number, (block, info) in enumerate(found):
        code = text[block.metadata["code_start"] : block.metadata["code_end"]]
        if info != kind or code.startswith(INCLUDED):
            continue
        below, shown = found[number + 1] if number + 1 < len(found) else (None, "")
        if below is None or shown != "text" or text[block.end_pos : below.start_pos].strip():
            pairs.append((code, ""))
        else:
            output = text[below.metadata["code_start"] : below.metadata["code_end"]]
            pairs.append((code, output))
    return pairs


def examples(kind: str) -> list[object]:
    """Those of all pages, as parameters named after their page."""
    return [
        pytest.param(code, output, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, (code, output) in enumerate(blocks(page, kind))
    ]


def sessions(text: str) -> list[tuple[str, str]]:
    """(command, what it prints) of a console block; ``> `` goes on with a command."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
            continue
        command, output = found[-1]
        more = line.startswith("> ") and not output and command.endswith("\\\n")
        found[-1] = (command + line[2:], "") if more else (command, output + line)
    return found


def assert_shown(printed: str, shown: str) -> None:
    """What was printed is what is shown, but for what the page leaves out."""
    pattern = ".*".join(re.escape(part) for part in shown.split("…"))
    if not re.fullmatch(pattern, printed, re.DOTALL):
        assert printed == shown


def client_of(url: str) -> str:
    """``VmExecutionClient()`` for another server than the default one."""
    config = f"__import__('mulligan').VmExecutionConfig(api_base_url={url!r})"
    return DEFAULT_CLIENT.replace("()", f"({config})")


@contextmanager
def surroundings(code: str) -> Iterator[tuple[str, dict[str, str], Path]]:
    """The code, its environment and working directory; with a server, if it talks to one."""
    check_has_what_it_types(code)
    with data_directory() as directory:
        data, work = directory / "data", directory / "work"
        work.mkdir()
        env = clean_environment(MULLIGAN_DATA_DIR=str(data), NO_PROXY="127.0.0.1")
        env["PATH"] = f"{TYPED.directory}:/usr/bin:/bin:{env['PATH']}"
        if SERVER not in code and DEFAULT_CLIENT not in code:
            yield code, env, work
            return
        with Server(data) as server:
            code = code.replace(SERVER, server.url.removeprefix("http://"))
            yield code.replace(DEFAULT_CLIENT, client_of(server.url)), env, work


@pytest.mark.parametrize(("block", "below"), examples("console"))
def test_console_examples(block: str, below: str) -> None:
    assert not below, "what a session prints stands in it"
    with surroundings(block) as (text, env, directory):
        steps = sessions(text)
        # The page's own lines, typed into one shell as a reader would.
        script = "".join(f"{command}printf '\\0'\n" for command, _ in steps)
        done = subprocess.run(
            ["bash", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            env=env,
            cwd=directory,
            check=False,
        )
    printed = done.stdout.split("\0")
    assert len(printed) == len(steps) + 1, done.stdout
    for output, (_, expected) in zip(printed, steps, strict=False):
        assert_shown(output.rstrip("\n"), expected.rstrip("\n"))


@pytest.mark.parametrize(("code", "expected"), examples("python"))
def test_python_examples(code: str, expected: str) -> None:
    with surroundings(code) as (text, env, directory):
        done = subprocess.run(
            [sys.executable, "-c", text],
            capture_output=True,
            text=True,
            timeout=100,
            env=env,
            cwd=directory,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert_shown(done.stdout, expected)


def test_there_are_examples() -> None:
    assert len(examples("console")) > 5
    assert len(examples("python")) > 5


def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly: no broken link, no page left out, no object that is not there; and it is whole."""
    missing = [m for m in ("material", "mkdocstrings_handlers") if not importlib.util.find_spec(m)]
    if missing:
        pytest.skip("needs what builds the site: pip install -e '.[docs]'")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env=clean_environment(NO_MKDOCS_2_WARNING="1"),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(site): path.read_text() for path in site.rglob("*.html")}
    for page in ROOT.glob("docs/**/*.md"):
        assert page.relative_to(ROOT / "docs").with_suffix(".html") in pages
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?:)?//|<link[^>]*href=\"?https?://(?!localhost)"
    )
    for path, text in pages.items():
        assert not loads.search(text), f"{path} loads something from elsewhere"
    reference = {path.stem: text for path, text in pages.items() if path.parts[0] == "reference"}
    for name, text in {
        "cli": "mulligan rollback",
        "http": "POST /api/llm/execute",
        "python": "VmExecuteRequest",
        "settings": "MULLIGAN_MAX_CODE_LENGTH",
    }.items():
        assert text in reference[name]


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("https://"):
                assert (document.parent / target).exists(), (document, target)


def lacks(driver: str, images: Path) -> str | None:
    """Why a driver's demonstration cannot be shown here; it is lent a kernel image."""
    try:
        if driver == "gvisor":
            runsc.find()
    except ConfigError as missing:
        return f"{missing.detail}: {missing.remedy}"
    if driver == "qemu":
        found = microvm.images()
        if isinstance(found, str):
            return found
        image.lend(found, images)
    return None


@pytest.mark.parametrize(
    "driver",
    [
        "bubblewrap",
        pytest.param("gvisor", marks=pytest.mark.long),
        pytest.param("qemu", marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
)
def test_demo_shows_what_it_promises(driver: str, data_dir: Path) -> None:
    if why := lacks(driver, data_dir / "images"):
        pytest.skip(why)
    before_it = set(Path("/tmp").glob("mulligan-demo-*"))
    done = subprocess.run(
        [sys.executable, "-m", "mulligan", "demo"],
        capture_output=True,
        text=True,
        timeout=350 if driver == "qemu" else 100,
        env=clean_environment() | {"MULLIGAN_DRIVER": driver, "MULLIGAN_DATA_DIR": str(data_dir)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in (
        f"VMs by the driver {driver}",
        "1229 primes; the last is 9973",
        "nothing of it was found",
        "Execution timeout after 1500ms",
        "medians of 30 runs",
    ):
        assert text in done.stdout
    before, after = done.stdout.split("processes in the VM before: ")[1].split("\n")[0].split(", ")
    assert after == f"after: {before}"
    assert set(Path("/tmp").glob("mulligan-demo-*")) <= before_it
