"""From a language and its code to the program the agent runs."""

from __future__ import annotations

from mulligan.engine.vms.program import Program
from mulligan.errors import UnsupportedLanguage
from mulligan.guest.root import EXECUTION_DIR
from mulligan.images.host import PACKAGES, WORKSPACE, HostImage, toolchains_hint
from mulligan.languages import LANGUAGES
from mulligan.models import PackageSet, VmExecuteRequest
from mulligan.settings import Settings

RUST_EDITION = "2021"
REHEARSAL_MS = 10_000
REHEARSAL_OUTPUT = 4096


def program_of(
    request: VmExecuteRequest,
    language: str,
    image: HostImage,
    settings: Settings,
    packages: PackageSet | None = None,
) -> Program:
    """What the agent is asked to run, for a request that was checked, with packages if it has some.

    Raises:
        UnsupportedLanguage: the image has no toolchain for it.
    """
    runtime, steps, file = steps_for(language, image)
    env = request.env or {}
    if packages is not None:
        env = packages_environment(packages, image) | env
        steps = _with_packages(packages, steps, kernel=request.kernel is not None)
    base_ms = (
        request.timeout_seconds * 1000
        if request.timeout_seconds is not None
        else settings.execution_timeout_ms
    )
    in_kernel = request.kernel is not None
    return Program(
        runtime="kernel" if in_kernel else runtime,
        steps=steps,
        files={} if in_kernel else {file: request.code},
        env=env,
        cwd=request.working_dir or WORKSPACE,
        timeout_ms=int(base_ms * LANGUAGES[language].timeout_multiplier),
        output_limit=settings.output_limit_bytes,
        stdin=request.stdin.encode() if request.stdin is not None else None,
        kernel=request.kernel,
        language=language,
        code=request.code if in_kernel else "",
        enter=request.working_dir is not None,
    )


def rehearsal(image: HostImage) -> Program:
    """A program that does nothing, in the interpreter that VMs have in any case."""
    path = f"{EXECUTION_DIR}/main.py"
    return Program(
        runtime="python",
        steps=[[str(image.python), path]],
        files={"main.py": ""},
        env={},
        cwd="/",
        timeout_ms=REHEARSAL_MS,
        output_limit=REHEARSAL_OUTPUT,
    )


def packages_environment(packages: PackageSet, image: HostImage) -> dict[str, str]:
    """Variables that have interpreters find packages, and shells their programs.

    A set for Python is a virtual environment; the guest's ``packages.py`` enters it where an
    interpreter runs already.
    """
    place = f"{PACKAGES}/{packages.id}"
    if packages.language == "python":
        return {"VIRTUAL_ENV": place, "PATH": f"{place}/bin:{image.search_path()}"}
    modules = f"{place}/node_modules"
    return {"NODE_PATH": modules, "PATH": f"{modules}/.bin:{image.search_path()}"}


def _with_packages(
    packages: PackageSet, steps: list[list[str]], *, kernel: bool
) -> list[list[str]]:
    """Steps that start the interpreter of the packages, or lay them where modules are looked for.

    ``import()`` of Node.js does not look at NODE_PATH, but beside the program.
    """
    place = f"{PACKAGES}/{packages.id}"
    if packages.language == "python":
        (_, *arguments), *others = steps
        return [[f"{place}/bin/python", *arguments], *others]
    if kernel:
        return steps
    link = ["/bin/ln", "-s", f"{place}/node_modules", f"{EXECUTION_DIR}/node_modules"]
    return [link, *steps]


def steps_for(language: str, image: HostImage) -> tuple[str, list[list[str]], str]:
    """How a language is run in VMs of an image.

    Returns:
        The runtime, the steps, and the name of the file the code goes into.

    Raises:
        UnsupportedLanguage: the image has no toolchain for it.
    """
    toolchain = image.toolchains.get(language)
    config = LANGUAGES.get(language)
    if toolchain is None or config is None:
        raise UnsupportedLanguage(language, field="language", remedy=toolchains_hint(language))
    program = str(toolchain.program)
    source = f"main.{config.extension}"
    path = f"{EXECUTION_DIR}/{source}"
    if language == "rust":
        binary = f"{EXECUTION_DIR}/main"
        compiler = [program, "--edition", RUST_EDITION, "-o", binary, path]
        return "exec", [compiler, [binary]], source
    return "python" if language == "python" else "exec", [[program, path]], source
