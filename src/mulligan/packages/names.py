"""Which packages may be asked for: names and versions, and nothing that reaches elsewhere."""

from __future__ import annotations

import re

from mulligan.errors import ValidationFailed

MOST_LENGTH = 200
FIELD = "requirements"
LANGUAGES = ("python", "javascript")
INSTEAD = {
    "bash": "send them with python or javascript; programs of the host's /usr can be called",
    "rust": "programs are one file with the standard library; send what they need as code",
}
_SCOPE = r"(?:@[a-z0-9-][a-z0-9._~-]*/)?"
_NPM = re.compile(rf"({_SCOPE}[a-z0-9-][a-z0-9._~-]*)(?:@([A-Za-z0-9.^~<>=|*+ -]+))?")
_ARCHIVE = (".tgz", ".tar.gz", ".tar", ".zip", ".whl")
_NPM_NAME_MOST = 214  # npm's own limit


def check_requirements(requirements: list[str], language: str, most: int) -> list[str]:
    """Requirements in their normal form, each once, in order.

    Args:
        requirements: as PEP 508 has them for Python (``numpy>=2``), and as npm has them for
            JavaScript (``lodash@^4``).
        language: its canonical name.
        most: how many there may be.

    Raises:
        ValidationFailed: one of them is refused; the text names it.
    """
    if not requirements:
        return []
    if language not in LANGUAGES:
        raise ValidationFailed(
            f"requirements are not supported for {language}", field=FIELD, remedy=INSTEAD[language]
        )
    if len(requirements) > most:
        raise ValidationFailed(
            f"there are {len(requirements)} requirements, more than {most}",
            field=FIELD,
            remedy="ask for what is imported; what that needs comes along "
            "(packages.max_requirements, MULLIGAN_PACKAGES__MAX_REQUIREMENTS)",
        )
    check = _python if language == "python" else _npm
    return sorted({check(each) for each in requirements})


def _python(text: str) -> str:
    _check_text(text)
    looks = text.strip()
    if looks.startswith(("-", "#")):
        raise _refused(text, "is an option or a comment", "the index is the host's to configure")
    if "://" in looks or re.search(r"\s@|@\s", looks):
        raise _refused(text, "names an address", "give a name that the index knows")
    if looks.startswith((".", "/", "~", "\\")) or looks.lower().endswith(_ARCHIVE):
        raise _refused(text, "is a path", "give a name that the index knows")
    # Loading it takes 40 ms, and most executions ask for nothing.
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415
    from packaging.utils import canonicalize_name  # noqa: PLC0415

    try:
        found = Requirement(looks)
    except InvalidRequirement as error:
        why = str(error).splitlines()[0][:200]
        remedy = "write it as name, name>=1.2 or name[extra]==1.2 (PEP 508)"
        raise _refused(text, f"is none: {why}", remedy) from None
    if found.url is not None:
        raise _refused(text, "names an address", "give a name that the index knows")
    found.name = canonicalize_name(found.name)
    return str(found)


def _npm(text: str) -> str:
    _check_text(text)
    looks = text.strip()
    if looks.startswith("-"):
        raise _refused(text, "is an option", "the registry is the host's to configure")
    if "://" in looks:
        raise _refused(text, "names an address", "give a name that the registry knows")
    if looks.startswith((".", "/", "~/")) or looks.lower().endswith(_ARCHIVE):
        raise _refused(text, "is a path", "give a name that the registry knows")
    found = _NPM.fullmatch(looks)
    if found is None and (":" in looks or "/" in looks.removeprefix("@")):
        raise _refused(text, "names an address", "give a name that the registry knows")
    if found is None or len(found[1]) > _NPM_NAME_MOST:
        remedy = "write it as name, name@1.2.3, name@^1.2 or @scope/name"
        raise _refused(text, "is none", remedy)
    return looks


def _check_text(text: str) -> None:
    if len(text) > MOST_LENGTH:
        raise _refused(
            text, f"has more than {MOST_LENGTH} characters", "one entry is one requirement"
        )
    if not text.strip() or not text.isprintable():
        raise _refused(text, "is empty or has control characters", "one entry is one requirement")


def _refused(text: str, why: str, remedy: str) -> ValidationFailed:
    return ValidationFailed(f"requirement {text[:80]!r} {why}", field=FIELD, remedy=remedy)
