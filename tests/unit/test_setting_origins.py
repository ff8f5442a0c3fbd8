"""``mulligan config``: where each setting comes from, and nothing of a secret."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mulligan import settings as settings_module
from mulligan.cli.app import app
from mulligan.settings.origins import HIDDEN, Origin, origins

FILE = """
port = 9000
[history]
enabled = false
[vm_types.small]
memory_mb = 64
[vm_types.small.secrets]
[hooks.commands.judge]
command = ["/bin/true"]
env = {KEY = "hidden-in-a-hook"}
[tracing]
headers = {Authorization = "hidden-in-a-header"}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "m.toml"
    path.write_text(FILE)
    monkeypatch.setenv("MULLIGAN_CONFIG", str(path))
    monkeypatch.setenv("MULLIGAN_SECRETS__api_Key", "hidden-in-a-variable")
    monkeypatch.setenv("mulligan_pool__idle_hibernate_seconds", "7")
    monkeypatch.setenv("MULLIGAN_LIMITS", '{"vms": 3}')
    monkeypatch.setenv("MULLIGAN_DATABASE_URL", "postgresql://somebody:hidden-in-a-url@db/x")
    monkeypatch.setenv("MULLIGAN_PORT", "9001")
    return path


def found(**given: object) -> dict[str, Origin]:
    return {each.name: each for each in origins(settings_module.load(**given), given)}


def test_each_setting_says_where_it_comes_from(file: Path, tmp_path: Path) -> None:
    known = found(data_dir=tmp_path)
    of_file = {"history.enabled": False, "vm_types.small.memory_mb": 64}
    for name, value in of_file.items():
        assert known[name] == Origin(name, value, "file", str(file))
    for name, value, variable in (
        ("port", 9001, "MULLIGAN_PORT"),  # over the file
        ("pool.idle_hibernate_seconds", 7.0, "mulligan_pool__idle_hibernate_seconds"),
        ("limits.vms", 3, "MULLIGAN_LIMITS"),
        ("secrets.api_Key", HIDDEN, "MULLIGAN_SECRETS__api_Key"),
    ):
        assert known[name] == Origin(name, value, "environment", variable)
    assert known["data_dir"] == Origin("data_dir", str(tmp_path), "argument", None)
    assert known["vm_types.small.vcpus"].source == "default"
    assert known["limits.requests_per_second"].source == "default"


def test_every_setting_there_is_is_in_it(tmp_path: Path) -> None:
    names = {name.partition(".")[0] for name in found(data_dir=tmp_path)}
    assert names == set(settings_module.Settings.model_fields)


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nothing_of_a_secret_is_shown(form: list[str]) -> None:
    done = CliRunner().invoke(app, ["config", *form])
    assert done.exit_code == 0
    assert "hidden-in" not in done.output
    for name in ("hooks.commands.judge.env.KEY", "tracing.headers.Authorization"):
        assert name in done.output
    assert f"postgresql://{HIDDEN}@db/x" in done.output


@pytest.mark.usefixtures("file")
def test_a_section_alone_and_what_is_changed_alone() -> None:
    def names(*words: str) -> list[str]:
        done = CliRunner().invoke(app, ["config", "--json", *words])
        return [each["name"] for each in json.loads(done.output)]

    assert names("history.enabled") == ["history.enabled"]
    assert all(each.startswith("vm_types.small.") for each in names("vm_types.small"))
    assert names("--changed", "history") == ["history.enabled"]
    refused = CliRunner().invoke(app, ["config", "histor"])
    assert refused.exit_code != 0
    assert "no setting 'histor'" in str(refused.exception)
