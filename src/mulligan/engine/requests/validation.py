"""What is refused before anything runs, and in which words."""

from __future__ import annotations

import re

from mulligan.engine.executions.offered import check_named, given
from mulligan.errors import ConfigError, UnsupportedLanguage, ValidationFailed
from mulligan.languages import LANGUAGES, canonical
from mulligan.models import ExecutionHistory, VmCreateRequest, VmExecuteRequest
from mulligan.network.rules import uncovered
from mulligan.packages.names import check_requirements
from mulligan.settings import PackageSettings, Settings
from mulligan.settings.network import NETWORK_MODES, checked_entries, checked_mode

MAX_ID_LENGTH = 128
MAX_NAME_LENGTH = 200
MAX_DISK_MB = 2**40
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_KERNEL_NAME = 64
_KERNEL = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_KERNEL_NAME}}}")
KERNEL_LANGUAGES = ("python", "bash", "javascript")
MAX_PATH_LENGTH = 4095
MAX_ENV_VALUE = 100_000  # below what the kernel takes as one string (128 KiB)
MAX_ENV_TOTAL = 512 * 1024


def check_agent_id(agent_id: str) -> None:
    """Refuses an agent id that could not be told apart in a log line or a path."""
    if len(agent_id) > MAX_ID_LENGTH or not _ID.fullmatch(agent_id):
        raise ValidationFailed(
            f"agent_id must be 1 to {MAX_ID_LENGTH} letters, digits or . _ : @ / + -",
            field="agent_id",
        )


def check_request(request: VmExecuteRequest, settings: Settings) -> str:
    """Checks a request against the settings and returns the language's canonical name.

    Raises:
        ValidationFailed, UnsupportedLanguage: naming the field and what would be right.
    """
    check_agent_id(request.agent_id)
    language = check_language(request.language, settings)
    if request.kernel is not None:
        _check_kernel(request.kernel, language)
    _check_code(request.code, settings.max_code_length)
    _check_timeout(request.timeout_seconds, settings.max_timeout_seconds)
    _check_working_dir(request.working_dir)
    _check_env(request.env or {})
    for name, value in given(request).items():
        _check_text(value, f"secrets.{name[:100]}")
    check_named(request, settings)
    if request.stdin is not None:
        _check_text(request.stdin, "stdin")
    if request.history is not None and not settings.history.enabled:
        _check_history(request.history)
    check_packages(request.requirements, language, settings.packages)
    return language


def check_language(name: str, settings: Settings) -> str:
    """The canonical name of a language that may be used.

    Raises:
        UnsupportedLanguage: it may not, or there is none of that name.
    """
    language = canonical(name)
    if language not in LANGUAGES or language not in settings.allowed_languages:
        allowed = ", ".join(settings.allowed_languages)
        raise UnsupportedLanguage(name[:100], field="language", remedy=f"use one of: {allowed}")
    return language


def check_packages(requirements: list[str], language: str, settings: PackageSettings) -> list[str]:
    """Requirements in their normal form.

    Raises:
        ValidationFailed: they are refused.
    """
    if requirements and not settings.enabled:
        raise ValidationFailed(
            "requirements are switched off here",
            field="requirements",
            remedy="send none, or set packages.enabled (MULLIGAN_PACKAGES__ENABLED)",
        )
    return check_requirements(requirements, language, settings.max_requirements)


def _check_history(history: ExecutionHistory) -> None:
    """Refuses what cannot be done without history."""
    for name, wanted in history.model_dump().items():
        if wanted:
            raise ValidationFailed(
                f"{name} is asked for, and history is off here",
                field=f"history.{name}",
                remedy="leave it out, or set history.enabled (MULLIGAN_HISTORY__ENABLED)",
            )


def _check_kernel(name: str, language: str) -> None:
    if not _KERNEL.fullmatch(name):
        raise ValidationFailed(
            f"kernel must be 1 to {MAX_KERNEL_NAME} letters, digits or . _ -", field="kernel"
        )
    if language not in KERNEL_LANGUAGES:
        raise ValidationFailed(
            f"there are no kernels for {language}",
            field="kernel",
            remedy=f"leave it out, or use one of: {', '.join(KERNEL_LANGUAGES)}",
        )


def _check_code(code: str, most: int) -> None:
    if not code.strip():
        raise ValidationFailed("code is empty", field="code")
    if len(code) > most:
        raise ValidationFailed(
            f"code exceeds maximum length of {most} characters (it has {len(code)})",
            field="code",
            remedy="shorten it, or raise max_code_length (MULLIGAN_MAX_CODE_LENGTH)",
        )
    _check_text(code, "code")


def _check_text(text: str, field: str) -> None:
    """Refuses what no file or pipe of text can hold."""
    position = text.find("\0") if field != "stdin" else -1
    if position >= 0:
        raise ValidationFailed(
            f"{field} has a NUL character at position {position}", field=field, remedy="remove it"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationFailed(
            f"{field} has half a surrogate pair at position {error.start}, which is no text",
            field=field,
        ) from None


def _check_timeout(seconds: int | None, most: int) -> None:
    if seconds is not None and not 1 <= seconds <= most:
        raise ValidationFailed(
            f"timeout_seconds must be from 1 to {most}, not {seconds}", field="timeout_seconds"
        )


def _check_working_dir(path: str | None) -> None:
    if path is None:
        return
    if not path.startswith("/"):
        raise ValidationFailed(
            f"working_dir must be an absolute path, not {path[:200]!r}", field="working_dir"
        )
    _check_text(path, "working_dir")
    if len(path.encode()) > MAX_PATH_LENGTH:
        raise ValidationFailed("working_dir is too long", field="working_dir")


def _check_env(env: dict[str, str]) -> None:
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise ValidationFailed(
                f"env has a name that is none: {name[:100]!r}",
                field="env",
                remedy="use letters, digits and _, not starting with a digit",
            )
        _check_text(value, f"env.{name}")
        if len(value.encode()) > MAX_ENV_VALUE:
            raise ValidationFailed(
                f"env.{name} has more than {MAX_ENV_VALUE} bytes", field=f"env.{name}"
            )
    total = sum(len(name) + len(value.encode()) for name, value in env.items())
    if total > MAX_ENV_TOTAL:
        raise ValidationFailed(f"env has more than {MAX_ENV_TOTAL} bytes in all", field="env")


def check_vm_request(request: VmCreateRequest) -> tuple[str, str]:
    """The agent and the name of a VM to be.

    Raises:
        ValidationFailed: naming the field and what would be right.
    """
    agent_id = request.agent_id or _agent_of(request.vm_name)
    check_agent_id(agent_id)
    name = request.vm_name or f"agent-{agent_id}-vm"
    if not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise ValidationFailed(
            f"vm_name must be up to {MAX_NAME_LENGTH} printable characters", field="vm_name"
        )
    return agent_id, name


def check_vm_type(vm_type: str, disk_mb: int | None, settings: Settings) -> None:
    """Refuses a VM of a type there is none of, or with a disk larger than those of its type.

    Raises:
        ValidationFailed: naming what would be right.
    """
    try:
        most = settings.vm_type(vm_type).disk_mb
    except ConfigError as error:
        detail = str(error.detail)
        raise ValidationFailed(detail, field="vm_type", remedy=error.remedy) from None
    if disk_mb is None or (most == 0 and disk_mb <= MAX_DISK_MB) or 0 < disk_mb <= most:
        return
    raise ValidationFailed(
        f"disk_mb of a VM of type {vm_type} must be from 1 to {most or MAX_DISK_MB}, not {disk_mb}",
        field="disk_mb",
        remedy=f"ask for less, or raise vm_types.{vm_type}.disk_mb in the settings",
    )


def check_network(request: VmCreateRequest, settings: Settings) -> list[str] | None:
    """Refuses a VM that would reach more than its type does; returns its list in one form.

    Raises:
        ValidationFailed: naming the field and what would be right.
    """
    vm_type, network, allow = request.vm_type, request.network, request.allow
    try:
        checked_mode(network)
        entries = None if allow is None else checked_entries(allow)
    except ValueError as error:
        field = "network" if network == "full" else "allow"
        raise ValidationFailed(str(error), field=field) from None
    of_type = settings.vm_type(vm_type)
    setting = f"vm_types.{vm_type}"
    if network is not None and network not in NETWORK_MODES:
        modes = " or ".join(NETWORK_MODES)
        raise ValidationFailed(f"network must be {modes}, not {network[:100]!r}", field="network")
    if of_type.network == "none" and (network == "allowlist" or entries):
        raise ValidationFailed(
            f"VMs of type {vm_type} have no network",
            field="network" if network == "allowlist" else "allow",
            remedy=f'leave it out, or set {setting}.network = "allowlist" in the settings',
        )
    missing = uncovered(entries or [], of_type.allow)
    if missing is not None:
        raise ValidationFailed(
            f"{missing} is more than VMs of type {vm_type} may reach",
            field="allow",
            remedy=f"leave it out, or add it to {setting}.allow in the settings",
        )
    return entries


def _agent_of(vm_name: str | None) -> str:
    """The agent in a name of the form clients give: ``agent-<id>-vm``."""
    if vm_name and vm_name.startswith("agent-") and vm_name.endswith("-vm"):
        return vm_name.removeprefix("agent-").removesuffix("-vm")
    raise ValidationFailed(
        "agent_id is missing", field="agent_id", remedy="send it, or a vm_name agent-<id>-vm"
    )
