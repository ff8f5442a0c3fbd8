"""What can be set, from the environment (``MULLIGAN_*``) or a TOML file.

The file is the one named by ``MULLIGAN_CONFIG``, else ``~/.config/mulligan/mulligan.toml``. The
environment wins over the file. One in the working directory has to be named: what lies there may
come from anywhere, out of a VM for one, and settings name programs that run on this machine.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from mulligan.errors import ConfigError
from mulligan.models import DEFAULT_LANGUAGES, DEFAULT_VM_TYPE, SESSION_VM_TYPE
from mulligan.settings.access import AuditSettings, LimitSettings, checked_origin
from mulligan.settings.admission import AdmissionSettings
from mulligan.settings.environment import Environment, unknown
from mulligan.settings.files import FileSettings
from mulligan.settings.hooks import ApprovalSettings, HookSettings, known_languages
from mulligan.settings.idempotency import IdempotencySettings
from mulligan.settings.images import ImageSettings
from mulligan.settings.mcp import McpSettings
from mulligan.settings.network import NetworkSettings, OfferedSecret, checked_offers
from mulligan.settings.packages import PackageSettings
from mulligan.settings.pool import PoolSettings
from mulligan.settings.sections import (
    MIB,
    AnswerSettings,
    DriverName,
    HistorySettings,
    StreamSettings,
    VmType,
)
from mulligan.settings.terminal import TerminalSettings
from mulligan.settings.tracing import TracingSettings


def default_data_dir() -> Path:
    """``/var/lib/mulligan`` for root, the XDG data directory for anybody else."""
    if os.geteuid() == 0:
        return Path("/var/lib/mulligan")
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "mulligan"


def default_vm_types() -> dict[str, VmType]:
    """The default type, and the one clients of sessions ask for; both are the host's image."""
    return {DEFAULT_VM_TYPE: VmType(), SESSION_VM_TYPE: VmType()}


def config_file() -> Path | None:
    """The settings file in force, or none.

    Raises:
        ConfigError: the one that is named is no file; or none is named, and one lies in the working
            directory: whose it is nobody has said, and to pass over it might be to pass over walls.
    """
    named = os.environ.get("MULLIGAN_CONFIG")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigError(f"MULLIGAN_CONFIG names no file: {path}", field="MULLIGAN_CONFIG")
        return path
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    own, here = home / "mulligan" / "mulligan.toml", Path("mulligan.toml")
    known = own.is_file()
    if named is None and here.is_file() and not (known and own.samefile(here)):
        raise ConfigError(
            f"{here} in the working directory is not read unless it is named: settings name "
            "programs that run on this machine, and secrets that VMs are given",
            field="MULLIGAN_CONFIG",
            remedy=f"MULLIGAN_CONFIG={here} if it is yours; empty, it is passed over",
        )
    return own if known else None


class Settings(BaseSettings):
    """Mulligan's settings. Sizes are in bytes and times in the unit of their name.

    - ``data_dir``: everything there is; one process at a time serves it.
    - ``host`` and ``port``: where ``mulligan serve`` listens; port 0 is any free one. By
      ``allowed_hosts`` it may be called, too, and pages of ``cors_origins`` may use it.
    - ``allowed_languages``, ``max_code_length`` (characters), ``max_request_bytes``: what is not
      refused.
    - ``execution_timeout_ms``: of an execution that says nothing else, times what its language
      gets; one may ask for up to ``max_timeout_seconds``.
    - ``auto_provision``: an agent's first execution makes its VM, of ``default_vm_type``.
    - ``vm_pool_size``: so many VMs an agent that has one finds ready, its own included.
    - ``driver``: what makes the walls of VMs whose type names none, see docs/drivers.md.
    - ``output_limit_bytes``: kept of each output of an execution; the rest is counted.
    - ``boot_timeout_seconds``: a VM that takes longer is given up.
    - ``guest_uid``, ``guest_gid``: whom VMs of a server started as root run as.
    - ``limits_required``: whether VMs have to be held to all their limits, see docs/limits.md.
    - ``min_free_mb``: MiB of the data directory's disk that stay free.
    - ``durability``: what survives a loss of power, see docs/history-format.md.
    - ``database_url``: PostgreSQL for the history's rows, in place of SQLite.
    - ``secrets``: by name, given to every program as environment variables and taken out of
      everything that goes back.
    - ``offered_secrets``: by name, what requests may name in theirs; see docs/network.md.
    """

    model_config = SettingsConfigDict(
        env_prefix="MULLIGAN_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    allowed_languages: list[str] = Field(default_factory=lambda: list(DEFAULT_LANGUAGES))
    max_code_length: int = Field(default=10000, ge=1)
    execution_timeout_ms: int = Field(default=30000, ge=1)
    max_timeout_seconds: int = Field(default=3600, ge=1)
    auto_provision: bool = True
    default_vm_type: str = DEFAULT_VM_TYPE
    vm_types: dict[str, VmType] = Field(default_factory=default_vm_types)
    driver: DriverName = "bubblewrap"
    vm_pool_size: int = Field(default=1, ge=0, le=256)
    output_limit_bytes: int = Field(default=MIB, ge=1, le=256 * MIB)
    max_request_bytes: int = Field(default=16 * MIB, ge=1024)
    boot_timeout_seconds: float = Field(default=20.0, gt=0)
    guest_uid: int = Field(default=61000, ge=1, le=2**32 - 2)
    guest_gid: int = Field(default=61000, ge=1, le=2**32 - 2)
    min_free_mb: int = Field(default=512, ge=0, le=2**40)
    limits_required: bool | Literal["kernel"] = False
    durability: Literal["process", "power"] = "process"
    database_url: str | None = None
    history: HistorySettings = Field(default_factory=HistorySettings)
    hooks: HookSettings = Field(default_factory=HookSettings)
    approvals: ApprovalSettings = Field(default_factory=ApprovalSettings)
    secrets: dict[str, SecretStr] = Field(default_factory=dict)
    offered_secrets: dict[str, OfferedSecret] = Field(default_factory=dict)
    answers: AnswerSettings = Field(default_factory=AnswerSettings)
    idempotency: IdempotencySettings = Field(default_factory=IdempotencySettings)
    streams: StreamSettings = Field(default_factory=StreamSettings)
    admission: AdmissionSettings = Field(default_factory=AdmissionSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    allowed_hosts: list[str] = Field(default_factory=list)
    cors_origins: list[str] = Field(default_factory=list)
    files: FileSettings = Field(default_factory=FileSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    mcp: McpSettings = Field(default_factory=McpSettings)
    packages: PackageSettings = Field(default_factory=PackageSettings)
    images: ImageSettings = Field(default_factory=ImageSettings)
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    terminal: TerminalSettings = Field(default_factory=TerminalSettings)
    pool: PoolSettings = Field(default_factory=PoolSettings)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if value == Path():
            raise ValueError("must name a directory")
        return value.expanduser().absolute()

    _offers = field_validator("offered_secrets")(checked_offers)

    @field_validator("vm_types")
    @classmethod
    def _beside_the_defaults(cls, value: dict[str, VmType]) -> dict[str, VmType]:
        """One that is added, or set by one variable, does not take the others away."""
        return default_vm_types() | value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        return [checked_origin(each) for each in value]

    @field_validator("limits_required", mode="wrap")
    @classmethod
    def _required(cls, value: object, check: ValidatorFunctionWrapHandler) -> object:
        try:
            return check(value)
        except ValidationError:
            raise ValueError('must be true, false or "kernel"') from None

    @field_validator("allowed_languages")
    @classmethod
    def _known_languages(cls, value: list[str]) -> list[str]:
        return known_languages(value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (pydantic's signature)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over file."""
        environment, path = Environment(settings_cls), config_file()
        if path is None:
            return init_settings, environment
        return init_settings, environment, TomlConfigSettingsSource(settings_cls, path)

    def vm_type(self, name: str) -> VmType:
        """The VM type of that name.

        Raises:
            ConfigError: there is none; the error names those there are.
        """
        try:
            return self.vm_types[name]
        except KeyError:
            known = ", ".join(sorted(self.vm_types))
            raise ConfigError(
                f"vm_type {name!r} is not defined", field="vm_type", remedy=f"use one of: {known}"
            ) from None


def load(**overrides: object) -> Settings:
    """The settings in force; an override that is None counts as not given.

    Raises:
        ConfigError: a value is wrong; the text names the setting.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot read {config_file()}: {error}", field="MULLIGAN_CONFIG"
        ) from None
    except RuntimeError as error:  # a ~user that is none
        raise ConfigError(f"a path in the settings cannot be resolved: {error}") from None
    except SettingsError as error:
        raise ConfigError(f"a setting cannot be parsed: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        reason = "there is no such setting" if unknown else first["msg"]
        raise ConfigError(f"setting {name}: {reason}", field=name) from None
    settings.vm_type(settings.default_vm_type)
    return settings


def unknown_variables() -> dict[str, str | None]:
    """Variables ``MULLIGAN_*`` that are no settings, and which each may have been meant to be."""
    return unknown(Settings.model_fields)
