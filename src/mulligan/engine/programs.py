"""From a language and its code to the program the agent runs."""

from __future__ import annotations

from mulligan.errors import UnsupportedLanguage
from mulligan.guest.root import EXECUTION_DIR
from mulligan.images.host import HostImage, toolchains_hint
from mulligan.languages import LANGUAGES

RUST_EDITION = "2021"


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
