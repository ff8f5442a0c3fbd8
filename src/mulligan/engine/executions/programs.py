"""From a language and its code to the program the agent runs."""

from __future__ import annotations

from mulligan.engine.vms.program import Program
from mulligan.errors import UnsupportedLanguage, ValidationFailed
from mulligan.guest.root import EXECUTION_DIR
from mulligan.images.host import PACKAGES, WORKSPACE, HostImage, toolchains_hint
from mulligan.languages import LANGUAGES
from mulligan.models import PackageSet, VmExecuteRequest
from mulligan.settings import Settings

RUST_EDITION = "2021"
OLDEST_PYTHON = (3, 11)  # that the runner of kernels is written for
OLDEST_FOR_PACKAGES = (3, 9)  # that packages/inside.py is written for
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
    _check_image(request, language, image)
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


def _check_image(request: VmExecuteRequest, language: str, image: HostImage) -> None:
    """Refuses what VMs of images beside the host's do not have."""
    if image.digest is None:
        return
    if request.requirements and language != "python":
        raise ValidationFailed(
            f"there are no requirements of {language} in VMs of an image: sets of its packages fit "
            "the host's own",
            field="requirements",
            remedy="have them in the image, or use a VM type of the host's image",
        )
    if request.requirements:
        _check_python(image, OLDEST_FOR_PACKAGES, "requirements", "requirements need")
    if request.kernel is not None and language == "python":
        _check_python(image, OLDEST_PYTHON, "kernel", "kernels need")


def _check_python(image: HostImage, oldest: tuple[int, int], field: str, needs: str) -> None:
    version = image.version_of("python")
    if version < oldest:
        found = ".".join(map(str, version)) or "of no known version"
        least = ".".join(map(str, oldest))
        raise ValidationFailed(
            f"the Python of the VM's image is {found}, and {needs} {least} or newer",
            field=field,
            remedy="leave it out, or use an image with a newer Python",
        )


def rehearsal(image: HostImage) -> Program:
    """A program that does nothing, in an interpreter that VMs of an image have."""
    language = "python" if "python" in image.toolchains else next(iter(image.toolchains))
    if language == "rust":
        runtime, steps, file = (
            "exec",
            [[str(image.toolchains["rust"].program), "--version"]],
            "main",
        )
    else:
        runtime, steps, file = steps_for(language, image)
    return Program(
        runtime=runtime,
        steps=steps,
        files={file: ""},
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


def _remedy(language: str, image: HostImage) -> str:
    if image.digest is None:
        return toolchains_hint(language)
    return f"its VM is of an image without it, which has: {', '.join(sorted(image.toolchains))}"


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
        raise UnsupportedLanguage(language, field="language", remedy=_remedy(language, image))
    program = str(toolchain.program)
    source = f"main.{config.extension}"
    path = f"{EXECUTION_DIR}/{source}"
    if language == "rust":
        binary = f"{EXECUTION_DIR}/main"
        compiler = [program, "--edition", RUST_EDITION, "-o", binary, path]
        return "exec", [compiler, [binary]], source
    # What is forked from the zygote is the agent's interpreter, which only the host's image has.
    forked = language == "python" and image.digest is None
    return "python" if forked else "exec", [[program, path]], source
