"""What can be set. Sections stand in files of their own; ``settings`` puts them together."""

from mulligan.settings.access import AuditSettings, LimitSettings, is_loopback
from mulligan.settings.admission import AdmissionSettings
from mulligan.settings.files import FileSettings
from mulligan.settings.hooks import ApprovalSettings, HookCommand, HookSettings, known_languages
from mulligan.settings.idempotency import IdempotencySettings
from mulligan.settings.mcp import McpSettings
from mulligan.settings.network import NetworkSettings, OfferedSecret
from mulligan.settings.packages import PackageSettings
from mulligan.settings.sections import (
    AnswerSettings,
    HistorySettings,
    StreamSettings,
    VmType,
)
from mulligan.settings.settings import Settings, config_file, default_data_dir, load
from mulligan.settings.terminal import TerminalSettings
from mulligan.settings.tracing import TracingSettings

__all__ = [
    "AdmissionSettings",
    "AnswerSettings",
    "ApprovalSettings",
    "AuditSettings",
    "FileSettings",
    "HistorySettings",
    "HookCommand",
    "HookSettings",
    "IdempotencySettings",
    "LimitSettings",
    "McpSettings",
    "NetworkSettings",
    "OfferedSecret",
    "PackageSettings",
    "Settings",
    "StreamSettings",
    "TerminalSettings",
    "TracingSettings",
    "VmType",
    "config_file",
    "default_data_dir",
    "is_loopback",
    "known_languages",
    "load",
]
