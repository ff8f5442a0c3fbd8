"""Hooks, the commands that are hooks, and approvals."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mulligan.languages import LANGUAGES, canonical

MIB = 1024 * 1024


def known_languages(value: list[str]) -> list[str]:
    """The canonical names of languages, each once.

    Raises:
        ValueError: there is no such language.
    """
    names = [canonical(name) for name in value]
    for name in names:
        if name not in LANGUAGES:
            raise ValueError(f"{name!r} is not one of {', '.join(LANGUAGES)}")
    return list(dict.fromkeys(names))


class HookCommand(BaseModel):
    """A program that is a hook, in the format of Claude Code's hooks; see docs/hooks.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: list[str] = Field(min_length=1)
    events: list[Literal["PreToolUse", "PostToolUse"]] = Field(default=["PreToolUse"], min_length=1)
    languages: list[str] | None = None
    timeout_ms: int = Field(default=10_000, ge=1, le=600_000)
    output_limit_bytes: int = Field(default=MIB, ge=1, le=256 * MIB)
    env: dict[str, str] = Field(default_factory=dict)
    pass_env: list[str] = Field(default_factory=list)
    cwd: str = "/"
    observer: bool = False

    @field_validator("command")
    @classmethod
    def _found_from_anywhere(cls, value: list[str]) -> list[str]:
        program = value[0]
        if not program or ("/" in program and not program.startswith("/")):
            raise ValueError(
                f"{program!r} depends on the working directory; use an absolute path, or a name "
                "that is found in PATH"
            )
        return value

    @field_validator("cwd")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/"):
            raise ValueError("must be an absolute path")
        return value

    @field_validator("pass_env")
    @classmethod
    def _not_ours(cls, value: list[str]) -> list[str]:
        ours = [name for name in value if name.startswith("MULLIGAN_")]
        if ours:
            raise ValueError(f"{ours[0]} may hold a secret of Mulligan's own and is not passed on")
        return value

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, value: list[str] | None) -> list[str] | None:
        return None if value is None else known_languages(value)


class HookSettings(BaseModel):
    """Hooks: which, in which order, and how long they may take.

    ``order`` names built-in hooks and ``commands``; None: the built-in ones that need no choice,
    and all commands. ``dangerous`` holds changes to the rules of dangerous patterns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    order: list[str] | None = None
    timeout_ms: int = Field(default=5000, ge=1, le=600_000)
    max_rounds: int = Field(default=5, ge=2, le=100)
    commands: dict[str, HookCommand] = Field(default_factory=dict)
    dangerous: dict[str, Any] = Field(default_factory=dict)
    sanitizer: Literal["redact", "block", "off"] = "redact"


class ApprovalSettings(BaseModel):
    """Approvals. With ``mode`` "refuse", what a person would be asked is refused at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["ask", "refuse"] = "ask"
    expires_after_seconds: int = Field(default=3600, ge=1, le=30 * 86400)
    use_within_seconds: int = Field(default=3600, ge=1, le=30 * 86400)
