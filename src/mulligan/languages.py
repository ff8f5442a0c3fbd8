"""The languages Mulligan runs: names, aliases, and the table of how each is executed."""

from __future__ import annotations

from typing import Final

from mulligan.models import LanguageConfig

LANGUAGES: Final[dict[str, LanguageConfig]] = {
    "python": LanguageConfig(
        name="python",
        extension="py",
        execute_command="python3",
        common_packages=["numpy", "pandas", "requests"],
        timeout_multiplier=1.0,
    ),
    "javascript": LanguageConfig(
        name="javascript",
        extension="js",
        execute_command="node",
        common_packages=["lodash", "axios", "moment"],
        timeout_multiplier=1.0,
    ),
    "bash": LanguageConfig(
        name="bash",
        extension="sh",
        execute_command="bash",
        timeout_multiplier=1.5,
    ),
    "rust": LanguageConfig(
        name="rust",
        extension="rs",
        execute_command="rustc",
        common_packages=["serde", "tokio", "clap"],
        timeout_multiplier=3.0,
    ),
}

ALIASES: Final[dict[str, str]] = {
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "node": "javascript",
    "nodejs": "javascript",
    "mjs": "javascript",
    "cjs": "javascript",
    "sh": "bash",
    "shell": "bash",
    "rs": "rust",
}

EXTENSIONS: Final[dict[str, str]] = {
    config.extension: name for name, config in LANGUAGES.items()
} | {"mjs": "javascript", "cjs": "javascript", "bash": "bash"}

INSTALL_HINTS: Final[dict[str, str]] = {
    "python": "install python3 (Debian: apt-get install python3)",
    "javascript": "install Node.js (Debian: apt-get install nodejs)",
    "bash": "install bash (Debian: apt-get install bash)",
    "rust": "install rustc with rustup, or Debian: apt-get install rustc",
}


def canonical(name: str) -> str:
    """The table's name for ``name``; a name that is not known comes back lower-cased."""
    folded = name.strip().lower()
    return ALIASES.get(folded, folded)
