"""What runs packages, and what installs them."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from mulligan.errors import ConfigError, ValidationFailed
from mulligan.images.host import HostImage
from mulligan.images.toolchains import interpreter_version, search_path


def interpreter_of(language: str, image: HostImage) -> str:
    """What packages must fit: the interpreter, its version, the platform, all of the image."""
    toolchain = image.toolchains.get(language)
    if toolchain is None:
        raise ValidationFailed(f"there is no {language} here", field="language")
    if image.digest is not None:
        version = ".".join(map(str, image.version_of(language)))
        return f"{toolchain.program} {version} {platform.machine()} {image.digest}"
    libc = "-".join(platform.libc_ver())
    return f"{toolchain.program} {interpreter_version(toolchain)} {platform.machine()} {libc}"


def npm_of(image: HostImage) -> list[str]:
    """The command that runs npm in a VM.

    Raises:
        ConfigError: the host has none that VMs can see.
    """
    found = shutil.which("npm", path=search_path())
    node = image.toolchains.get("javascript")
    if found is None or node is None:
        raise ConfigError(
            "requirements of JavaScript need npm, and this host has none",
            remedy="install npm (Debian: apt-get install npm)",
        )
    script = Path(os.path.realpath(found))
    if not any(script.is_relative_to(path) for path in image.binds):
        raise ConfigError(
            f"npm is at {script}, which VMs cannot see", remedy="install npm beside Node.js"
        )
    return [str(node.program), str(script)]
