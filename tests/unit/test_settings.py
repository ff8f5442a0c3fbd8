"""Where settings come from, which of two wins, and what is said of a wrong one."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mulligan import settings as settings_module
from mulligan.errors import ConfigError
from mulligan.settings import (
    FileSettings,
    McpSettings,
    NetworkSettings,
    TracingSettings,
    VmType,
    config_file,
    default_data_dir,
    is_loopback,
    load,
)
from mulligan.settings.settings import default_vm_types, unknown_variables


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working directory; conftest has emptied the environment of MULLIGAN_*."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return tmp_path


@pytest.fixture
def write(home: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a settings file and makes it the one in force."""

    def _write(text: str, name: str = "some.toml") -> Path:
        path = home / name
        path.write_text(text)
        monkeypatch.setenv("MULLIGAN_CONFIG", str(path))
        return path

    return _write


VM_TYPE = {
    "driver": None,
    "image": "host",
    "disk_mb": 10240,
    "memory_mb": 2048,
    "vcpus": 2.0,
    "cpu_weight": 100,
    "max_processes": 512,
    "max_open_files": 4096,
    "cpu_seconds": 0,
    "shm_mb": 256,
    "warm": 0,
    "recycle_after_executions": 0,
    "recycle_after_hours": 0.0,
    "network": "none",
    "allow": [],
    "secrets": {},
    "keep_memory": False,
    "allow_builds": False,
}
DEFAULTS = {
    "host": "127.0.0.1",
    "port": 8080,
    "allowed_languages": ["python", "javascript", "bash", "rust"],
    "max_code_length": 10000,
    "execution_timeout_ms": 30000,
    "max_timeout_seconds": 3600,
    "auto_provision": True,
    "default_vm_type": "focal-optimized",
    "vm_types": {"focal-optimized": VM_TYPE, "ubuntu": VM_TYPE},
    "driver": "bubblewrap",
    "vm_pool_size": 1,
    "output_limit_bytes": 1024**2,
    "max_request_bytes": 16 * 1024**2,
    "boot_timeout_seconds": 20.0,
    "guest_uid": 61000,
    "guest_gid": 61000,
    "min_free_mb": 512,
    "limits_required": False,
    "durability": "process",
    "database_url": None,
    "history": {
        "enabled": True,
        "snapshot_on_execution": False,
        "snapshot_on_failure": True,
        "auto_rollback_on_failure": False,
        "max_history_entries": 100,
        "persist_history": True,
        "integration_mode": "http",
    },
    "hooks": {
        "enabled": True,
        "order": None,
        "timeout_ms": 5000,
        "max_rounds": 5,
        "commands": {},
        "dangerous": {},
        "sanitizer": "redact",
    },
    "approvals": {
        "mode": "ask",
        "expires_after_seconds": 3600,
        "use_within_seconds": 3600,
    },
    "secrets": {},
    "offered_secrets": {},
    "answers": {"stop_on_failure": True},
    "idempotency": {"keep_seconds": 86400, "max_keys": 10_000, "max_bytes": 64 * 1024**2},
    "streams": {
        "buffer_bytes": 4 * 1024**2,
        "keep_ended": 256,
        "keep_ended_bytes": 64 * 1024**2,
        "keep_ended_seconds": 600.0,
        "heartbeat_seconds": 15.0,
    },
    "admission": {
        "max_running": 0,
        "max_starting": 0,
        "max_queued": 4096,
        "max_queued_per_agent": 1024,
        "queue_timeout_seconds": 300.0,
        "shutdown_seconds": 5.0,
    },
    "limits": {
        "running_executions": 256,
        "vms": 4096,
        "stored_mb": 0,
        "requests_per_second": 0.0,
        "request_burst": 100,
        "admin_requests_per_second": 0.0,
    },
    "audit": {"enabled": True, "file_mb": 64, "files": 16},
    "allowed_hosts": [],
    "cors_origins": [],
    "files": FileSettings().model_dump(),
    "mcp": McpSettings().model_dump(),
    "network": NetworkSettings().model_dump(),
    "images": {
        "directory": None,
        "max_mb": 16384,
        "max_entries": 1_000_000,
        "timeout_seconds": 1800,
    },
    "packages": {
        "enabled": True,
        "max_requirements": 100,
        "max_set_mb": 8192,
        "build_timeout_seconds": 900,
        "unused_days": 30.0,
        "max_total_mb": 20480,
    },
    "terminal": {
        "enabled": True,
        "agents": False,
        "idle_seconds": 3600.0,
        "max_seconds": 28800,
        "max_open": 64,
    },
    "pool": {
        "max_vms": None,
        "max_vms_per_agent": 0,
        "idle_hibernate_seconds": 900.0,
        "idle_delete_seconds": 0.0,
        "hibernate_with_programs": False,
        "ping_seconds": 1.0,
    },
    "tracing": TracingSettings().model_dump(),
    "log_level": "info",
}


def test_defaults() -> None:
    settings = load()
    assert settings.model_dump(exclude={"data_dir"}) == DEFAULTS
    assert settings.data_dir == default_data_dir()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


@pytest.mark.parametrize(
    ("uid", "xdg", "expected"),
    [
        (0, "/elsewhere", "/var/lib/mulligan"),
        (1000, None, "{home}/.local/share/mulligan"),
        (1000, "", "{home}/.local/share/mulligan"),
        (1000, "/elsewhere", "/elsewhere/mulligan"),
    ],
)
def test_default_data_dir(
    home: Path, monkeypatch: pytest.MonkeyPatch, uid: int, xdg: str | None, expected: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    if xdg is not None:
        monkeypatch.setenv("XDG_DATA_HOME", xdg)
    assert load().data_dir == Path(expected.format(home=home))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "0", 0),
        ("host", "::1", "::1"),
        ("auto_provision", "false", False),
        ("boot_timeout_seconds", "0.5", 0.5),
        ("data_dir", "/srv/m", Path("/srv/m")),
        ("allowed_languages", '["py", " JS "]', ["python", "javascript"]),
        ("log_level", "debug", "debug"),
        ("max_code_length", "1", 1),
    ],
)
def test_the_environment_sets(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"MULLIGAN_{name.upper()}", text)
    assert getattr(load(), name) == value


def test_names_of_secrets_stay_as_they_were_written(write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        '[secrets]\nFILE = "of-the-file"\nAPI_KEY = "overruled"\n'
        '[vm_types.focal-optimized]\nnetwork = "allowlist"\nallow = ["a.example"]\n'
        '[vm_types.focal-optimized.secrets.FILE]\nvalue_from = "env:F"\nhosts = ["a.example"]\n'
    )
    monkeypatch.setenv("MULLIGAN_SECRETS__API_KEY", "one")
    monkeypatch.setenv("MULLIGAN_SECRETS__api_key", "another")
    monkeypatch.setenv("mulligan_Secrets__camelCase", '{"no": "json"}')
    monkeypatch.setenv("MULLIGAN_SECRETS__WITH__LINES", "12345")
    monkeypatch.setenv("MULLIGAN_SECRETS", '{"Whole": "json"}')
    prefix = "MULLIGAN_VM_TYPES__FOCAL-OPTIMIZED__SECRETS__Token__"
    monkeypatch.setenv(f"{prefix}VALUE_FROM", "env:T")
    monkeypatch.setenv(f"{prefix}HOSTS", '["a.example"]')
    monkeypatch.setenv("MULLIGAN_VM_TYPES__FOCAL-OPTIMIZED__WARM", "2")
    settings = load()
    secrets = {name: value.get_secret_value() for name, value in settings.secrets.items()}
    assert secrets == {
        "FILE": "of-the-file",
        "API_KEY": "one",
        "api_key": "another",
        "camelCase": '{"no": "json"}',
        "WITH__LINES": "12345",
        "Whole": "json",
    }
    of_type = settings.vm_types["focal-optimized"]
    assert {name: each.value_from for name, each in of_type.secrets.items()} == {
        "FILE": "env:F",
        "Token": "env:T",
    }
    assert of_type.warm == 2


def test_secrets_that_requests_may_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULLIGAN_OFFERED_SECRETS__GITHUB__VALUE_FROM", "env:TOKEN")
    monkeypatch.setenv("MULLIGAN_OFFERED_SECRETS__GITHUB__HOSTS", '["API.github.com"]')
    monkeypatch.setenv("MULLIGAN_OFFERED_SECRETS__GITHUB__AGENTS", '["ada"]')
    offered = load().offered_secrets
    assert offered["github"].value_from == "env:TOKEN"
    assert offered["github"].hosts == ["api.github.com"]
    assert offered["github"].is_for("ada")
    assert not offered["github"].is_for("eve")


@pytest.mark.parametrize(
    ("name", "offer", "field"),
    [
        ("a b", {}, "offered_secrets"),
        ("", {}, "offered_secrets"),
        ("x" * 65, {}, "offered_secrets"),
        ("k", {"hosts": ["*"]}, "offered_secrets.k.hosts"),
        ("k", {"hosts": []}, "offered_secrets.k.hosts"),
        ("k", {"hosts": ["http://a.example"]}, "offered_secrets.k.hosts"),
        ("k", {"value_from": "TOKEN"}, "offered_secrets.k.value_from"),
        ("k", {"value_from": "file:relative"}, "offered_secrets.k.value_from"),
        ("k", {"agent": "a"}, "offered_secrets.k.agent"),
    ],
)
def test_offers_that_are_wrong(name: str, offer: dict[str, object], field: str) -> None:
    good = {"value_from": "env:TOKEN", "hosts": ["a.example"]}
    with pytest.raises(ConfigError) as caught:
        load(offered_secrets={name: good | offer})
    assert caught.value.field == field


def test_data_dir_becomes_absolute(home: Path) -> None:
    assert load(data_dir="x").data_dir == home / "x"
    assert load(data_dir="~/y").data_dir == home / "y"


def test_arguments_over_environment_over_file(write, monkeypatch: pytest.MonkeyPatch) -> None:
    write('port = 1\nhost = "file"\nguest_uid = 2\nallowed_languages = ["sh"]')
    monkeypatch.setenv("MULLIGAN_PORT", "3")
    monkeypatch.setenv("MULLIGAN_HOST", "environment")
    settings = load(port=4, host=None)
    assert (settings.port, settings.host) == (4, "environment")
    assert (settings.guest_uid, settings.allowed_languages) == (2, ["bash"])


def test_the_file_in_force(home: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    """MULLIGAN_CONFIG, else the configuration directory."""
    assert config_file() is None
    at_home = home / ".config" / "mulligan" / "mulligan.toml"
    at_home.parent.mkdir(parents=True)
    at_home.write_text("port = 1")
    assert load().port == 1
    monkeypatch.chdir(at_home.parent)
    assert load().port == 1
    named = write("port = 3")
    assert load().port == 3
    monkeypatch.setenv("MULLIGAN_CONFIG", f"~/{named.name}")
    assert load().port == 3


def test_a_file_in_the_working_directory_has_to_be_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of a VM may have written it, and it could name a hook to run here."""
    at_home = home / ".config" / "mulligan" / "mulligan.toml"
    for expected in (DEFAULTS["port"], 1):
        Path("mulligan.toml").write_text("port = 2")
        monkeypatch.delenv("MULLIGAN_CONFIG", raising=False)
        with pytest.raises(ConfigError, match=r"is not read unless it is named") as caught:
            load()
        assert caught.value.field == "MULLIGAN_CONFIG"
        monkeypatch.setenv("MULLIGAN_CONFIG", "mulligan.toml")
        assert load().port == 2
        monkeypatch.setenv("MULLIGAN_CONFIG", "")
        assert load().port == expected
        at_home.parent.mkdir(parents=True, exist_ok=True)
        at_home.write_text("port = 1")


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_named_file_must_exist(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MULLIGAN_CONFIG", name)
    with pytest.raises(ConfigError, match=r"MULLIGAN_CONFIG names no file") as caught:
        load()
    assert caught.value.field == "MULLIGAN_CONFIG"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("nonsense = 1", "nonsense"),
        ('port = "x"', "port"),
        ("port = 65536", "port"),
        ("port = -1", "port"),
        ("port = []", "port"),
        ("host = 1", "host"),
        ('auto_provision = "perhaps"', "auto_provision"),
        ("max_code_length = 0", "max_code_length"),
        ("execution_timeout_ms = 0", "execution_timeout_ms"),
        ("max_timeout_seconds = 0", "max_timeout_seconds"),
        ("boot_timeout_seconds = 0", "boot_timeout_seconds"),
        ("output_limit_bytes = 268435457", "output_limit_bytes"),
        ("max_request_bytes = 1023", "max_request_bytes"),
        ("guest_uid = 0", "guest_uid"),
        ("guest_gid = 4294967295", "guest_gid"),
        ('log_level = "loud"', "log_level"),
        ('allowed_languages = "python"', "allowed_languages"),
        ('allowed_languages = ["python", "cobol"]', "allowed_languages"),
        ('[vm_types.a]\ndriver = "magic"', "vm_types.a.driver"),
        ('[vm_types.a]\nimage = "../moon"', "vm_types.a.image"),
        ("[images]\nmax_mb = 0", "images.max_mb"),
        ("[images]\ntimeout_seconds = 0", "images.timeout_seconds"),
        ("[vm_types.a]\nmemory = 1", "vm_types.a.memory"),
    ],
)
def test_wrong_settings_are_named(write, text: str, field: str) -> None:
    write(text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert caught.value.field == field
    assert str(caught.value).startswith(f"Configuration error: setting {field}: ")


@pytest.mark.parametrize(
    ("name", "text"), [("PORT", "many"), ("PORT", ""), ("GUEST_UID", "0"), ("LOG_LEVEL", "INFO")]
)
def test_wrong_values_in_the_environment_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"MULLIGAN_{name}", text)
    with pytest.raises(ConfigError, match=f"setting {name.lower()}: ") as caught:
        load()
    assert caught.value.field == name.lower()


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(ConfigError, match="setting nonsense: "):
        load(nonsense=1)


def test_an_unknown_language_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'cobol' is not one of python, javascript, bash, rust"):
        load(allowed_languages=["cobol"])


def test_vm_types(write) -> None:
    write('default_vm_type = "b"\n[vm_types.b]\n[vm_types.a]\nimage = "host"')
    settings = load()
    assert settings.vm_type("a") == VmType(driver=None, image="host")
    with pytest.raises(ConfigError, match="vm_type 'c' is not defined") as caught:
        settings.vm_type("c")
    known = ", ".join(sorted(["a", "b", *default_vm_types()]))
    assert (caught.value.field, caught.value.remedy) == ("vm_type", f"use one of: {known}")


def test_the_default_vm_type_must_be_defined() -> None:
    with pytest.raises(ConfigError, match="vm_type 'c' is not defined"):
        load(default_vm_type="c")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MULLIGAN_ALLOWED_LANGUAGES", "python,bash"),
        ("MULLIGAN_VM_TYPES", "x"),
        ("MULLIGAN_DATA_DIR", "~no-such-user-at-all/x"),
        ("MULLIGAN_CONFIG", "~no-such-user-at-all/x"),
        ("MULLIGAN_DATA_DIR", ""),
    ],
)
def test_values_that_cannot_even_be_read(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError):
        load()


@pytest.mark.parametrize("content", [b"port = = 1", b"\xef\xbb\xbfport = 1", b"a = '\xff'"])
def test_files_that_are_no_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    monkeypatch.setenv("MULLIGAN_CONFIG", str(tmp_path / "bad.toml"))
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load()


HOOK_COMMANDS = """
[hooks]
order = ["guard", "dangerous_pattern"]
[hooks.dangerous.rules.bash-download-run]
enabled = false
[hooks.commands.guard]
command = ["/opt/guard.py", "--strict"]
languages = ["sh", "bash"]
env = {{GUARD_LEVEL = "2"}}
{more}
"""


def test_hook_commands(write) -> None:
    write(HOOK_COMMANDS.format(more='events = ["PreToolUse", "PostToolUse"]'))
    hooks = load().hooks
    assert hooks.order == ["guard", "dangerous_pattern"]
    assert hooks.dangerous == {"rules": {"bash-download-run": {"enabled": False}}}
    guard = hooks.commands["guard"]
    assert (guard.command, guard.languages) == (["/opt/guard.py", "--strict"], ["bash"])
    assert (guard.timeout_ms, guard.observer, guard.env) == (10_000, False, {"GUARD_LEVEL": "2"})


@pytest.mark.parametrize(
    ("more", "field", "text"),
    [
        ('events = ["Stop"]', "events.0", "PreToolUse"),
        ("events = []", "events", "at least 1"),
        ("timeout_ms = 0", "timeout_ms", "greater than or equal to 1"),
        ('pass_env = ["MULLIGAN_DATABASE_URL"]', "pass_env", "may hold a secret"),
        ('cwd = "here"', "cwd", "must be an absolute path"),
        ('shell = "true"', "shell", "there is no such setting"),
    ],
)
def test_hook_commands_that_are_wrong(write, more: str, field: str, text: str) -> None:
    write(HOOK_COMMANDS.format(more=more))
    with pytest.raises(ConfigError, match=text) as caught:
        load()
    assert caught.value.field == f"hooks.commands.guard.{field}"


@pytest.mark.parametrize("program", ["guard.py", "./guard.py", "hooks/guard.py", ""])
def test_a_hook_command_does_not_depend_on_the_working_directory(write, program: str) -> None:
    write(f'[hooks.commands.guard]\ncommand = ["{program}"]')
    if program == "guard.py":  # found in PATH
        assert load().hooks.commands["guard"].command == [program]
        return
    with pytest.raises(ConfigError, match="depends on the working directory"):
        load()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('[approvals]\nmode = "maybe"', "approvals.mode"),
        ("[approvals]\nexpires_after_seconds = 0", "approvals.expires_after_seconds"),
        ("[hooks]\nmax_rounds = 1", "hooks.max_rounds"),
        ('[hooks]\nsanitizer = "on"', "hooks.sanitizer"),
        ("[hooks]\nenable = true", "hooks.enable"),
    ],
)
def test_hooks_and_approvals_that_are_wrong(write, text: str, field: str) -> None:
    write(text)
    with pytest.raises(ConfigError, match=f"setting {field}") as caught:
        load()
    assert caught.value.field == field


@pytest.mark.parametrize(
    "origin", ["*", "null", "", "app.example.org", "https://a.example/", "ftp://a", "https://*/x"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="is no origin"):
        load(cors_origins=[origin])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "", "192.0.2.1", "localhost.example")),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_types_are_beside_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULLIGAN_VM_TYPES__SMALL__MEMORY_MB", "256")
    types = settings_module.load().vm_types
    assert {"small", *default_vm_types()} == set(types)
    assert types["small"].memory_mb == 256


def test_variables_that_are_no_settings_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MULLIGAN_POOL__SPARE", "MULLIGAN_CONFIG", "MULLIGAN_TOKEN", "mulligan_port"):
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == {}
    monkeypatch.setenv("MULLIGAN_MAX_CODE_LENGHT", "5")
    monkeypatch.setenv("MULLIGAN_QQQQ__Z", "5")
    assert unknown_variables() == {
        "MULLIGAN_MAX_CODE_LENGHT": "MULLIGAN_MAX_CODE_LENGTH",
        "MULLIGAN_QQQQ__Z": None,
    }
