"""The hooks that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mulligan.errors import ConfigError
from mulligan.hooks.builtin import (
    DangerousPatternHook,
    ExecutionLoggerHook,
    Finding,
    OutputSanitizerHook,
    Problem,
    SyntaxValidationHook,
)
from mulligan.hooks.command import CommandHook
from mulligan.hooks.injector import DependencyInjectorHook
from mulligan.hooks.interface import Hook
from mulligan.hooks.manager import HookManager
from mulligan.settings import HookSettings

Makers = Mapping[str, Callable[[HookSettings], Hook | None]]  # None: switched off

# The sanitizer before commands: they are not shown secrets.
DEFAULT_FIRST = ("dangerous_pattern", "syntax_validation", "output_sanitizer")
DEFAULT_LAST = ("execution_logger",)


def standard(
    *,
    check_syntax: Callable[[str, str, bool], Sequence[Problem]],
    syntax_is_known: Callable[[str, str, bool], bool],
    load_rules: Callable[[Mapping[str, Any]], Any],
    judge: Callable[[str, str, Any], Sequence[Finding]],
    redact: Callable[[str, str, bool], str],
) -> Makers:
    """The built-in hooks by name.

    Args:
        check_syntax, syntax_is_known: see `SyntaxValidationHook`.
        load_rules: rules with a user's changes; may raise ConfigError.
        judge: findings of (code, language, rules).
        redact: see `OutputSanitizerHook`.
    """

    def dangerous(settings: HookSettings) -> Hook:
        rules = load_rules(settings.dangerous)
        return DangerousPatternHook(lambda code, language: judge(code, language, rules))

    def sanitizer(settings: HookSettings) -> Hook | None:
        if settings.sanitizer == "off":
            return None
        return OutputSanitizerHook(redact, settings.sanitizer)

    return {
        "dangerous_pattern": dangerous,
        "syntax_validation": lambda _: SyntaxValidationHook(check_syntax, syntax_is_known),
        "output_sanitizer": sanitizer,
        "execution_logger": lambda _: ExecutionLoggerHook(),
        "dependency_injector": lambda _: DependencyInjectorHook(),
    }


def build(settings: HookSettings, makers: Makers) -> HookManager:
    """A manager with the hooks of the settings, in their order; with none if they are off.

    Raises:
        ConfigError: the order names what there is not, one hook twice, or leaves out a command,
            which would then never run.
    """
    manager = HookManager(timeout_ms=settings.timeout_ms, max_rounds=settings.max_rounds)
    if not settings.enabled:
        return manager
    taken = [name for name in settings.commands if name in makers]
    if taken:
        raise ConfigError(
            f"hook command {taken[0]!r} has the name of a built-in hook",
            field=f"hooks.commands.{taken[0]}",
            remedy="give it another name",
        )
    order = settings.order
    if order is None:
        order = [*DEFAULT_FIRST, *settings.commands, *DEFAULT_LAST]
    left_out = [name for name in settings.commands if name not in order]
    if left_out:
        raise ConfigError(
            f"hook command {left_out[0]!r} is not in hooks.order and would never run",
            field="hooks.order",
            remedy="name it there, or remove it from hooks.commands",
        )
    for name in order:
        hook = _made(name, settings, makers)
        if hook is not None:
            manager.add_hook(hook)
    return manager


def _made(name: str, settings: HookSettings, makers: Makers) -> Hook | None:
    if name in makers:
        return makers[name](settings)
    options = settings.commands.get(name)
    if options is None:
        known = ", ".join([*makers, *settings.commands])
        raise ConfigError(
            f"there is no hook {name!r}", field="hooks.order", remedy=f"use some of: {known}"
        )
    return CommandHook(
        name,
        options.command,
        events=options.events,
        languages=options.languages,
        timeout_ms=options.timeout_ms,
        output_limit=options.output_limit_bytes,
        env=options.env,
        pass_env=options.pass_env,
        cwd=options.cwd,
        observer=options.observer,
    )
