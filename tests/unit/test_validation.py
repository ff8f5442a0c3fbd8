"""What is refused before anything runs, and that each refusal names the field."""

from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.requests.validation import check_agent_id, check_request
from mulligan.errors import UnsupportedLanguage, ValidationFailed
from mulligan.models import VmExecuteRequest
from mulligan.settings import Settings

MOST = 20
GOOD = {"agent_id": "a", "language": "python", "code": "print(1)"}


@pytest.fixture
def strict_settings(tmp_path: Path) -> Settings:
    return settings_module.load(
        data_dir=tmp_path,
        max_code_length=MOST,
        max_timeout_seconds=60,
        allowed_languages=["python", "sh"],
    )


def ids(value: object) -> str:
    return f"{value!r:.50}"


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"agent_id": ""}, "agent_id", "1 to 128 letters"),
        ({"agent_id": "a" * 129}, "agent_id", "1 to 128 letters"),
        *(
            ({"agent_id": bad}, "agent_id", "letters, digits or . _ : @ / +")
            for bad in ("-a", ".a", "/a", "a b", "a\n", "\na", "a\0", "é", "a;b", "٣", "a\u2028")
        ),
        ({"code": ""}, "code", "code is empty"),
        ({"code": " \n\t"}, "code", "code is empty"),
        ({"code": "x" * (MOST + 1)}, "code", r"maximum length of 20 characters \(it has 21\)"),
        ({"code": "ab\0"}, "code", "NUL character at position 2"),
        ({"code": "\0"}, "code", "NUL character at position 0"),
        ({"code": "a\ud800"}, "code", "half a surrogate pair at position 1"),
        ({"timeout_seconds": 0}, "timeout_seconds", "from 1 to 60, not 0"),
        ({"timeout_seconds": 61}, "timeout_seconds", "from 1 to 60, not 61"),
        ({"timeout_seconds": 2**64 - 1}, "timeout_seconds", "from 1 to 60"),
        ({"working_dir": ""}, "working_dir", "must be an absolute path, not ''"),
        ({"working_dir": "tmp"}, "working_dir", "must be an absolute path, not 'tmp'"),
        ({"working_dir": "~"}, "working_dir", "must be an absolute path"),
        ({"working_dir": "/" + "a" * 4095}, "working_dir", "too long"),
        ({"working_dir": "/a\0"}, "working_dir", "NUL character at position 2"),
        ({"working_dir": "/\udfff"}, "working_dir", "half a surrogate pair at position 1"),
        *(
            ({"env": {bad: ""}}, "env", "a name that is none")
            for bad in ("", "1A", "A=B", "A B", "A-B", "É", "A\n", "A\0")
        ),
        ({"env": {"OK": "", "A": "x\0"}}, "env.A", "env.A has a NUL character at position 1"),
        ({"env": {"A": "\ud800"}}, "env.A", "half a surrogate pair at position 0"),
        ({"secrets": {"A": "secret\ud800"}}, "secrets.A", "half a surrogate pair at position 6"),
        (
            {"secrets": {"A": "secret\0"}},
            "secrets.A",
            "secrets.A has a NUL character at position 6",
        ),
        ({"stdin": "ok\udc80"}, "stdin", "half a surrogate pair at position 2"),
        ({"requirements": ["-r other.txt"]}, "requirements", "is an option"),
    ],
    ids=ids,
)
def test_refused(strict_settings: Settings, change: dict, field: str, said: str) -> None:
    # Half pairs do not get through the models; other callers could still send them.
    request = VmExecuteRequest.model_construct(**{**dict(VmExecuteRequest(**GOOD)), **change})
    with pytest.raises(ValidationFailed, match=said) as caught:
        check_request(request, strict_settings)
    assert caught.value.field == field


@pytest.mark.parametrize("language", ["cobol", "", "javascript", "js", "rust", "pythön", "x" * 999])
def test_languages_refused(strict_settings: Settings, language: str) -> None:
    """Those there are none of, and those that the settings do not allow."""
    request = VmExecuteRequest(**GOOD | {"language": language})
    with pytest.raises(UnsupportedLanguage) as caught:
        check_request(request, strict_settings)
    assert caught.value.detail == language[:100]
    assert (caught.value.field, caught.value.remedy) == ("language", "use one of: python, bash")


@pytest.mark.parametrize(
    "change",
    [
        {},
        *({"agent_id": good} for good in ("0", "a" * 128, "a.b_c:d@e/f+g-", "Z" + "-" * 127)),
        {"code": "x" * MOST},
        {"code": "é" * MOST},
        {"code": "😀" * MOST},
        *({"timeout_seconds": seconds} for seconds in (None, 1, 60)),
        *({"working_dir": path} for path in (None, "/", "/a b/é", "/" + "a" * 4094)),
        *({"env": env} for env in (None, {}, {"_": "", "A1_b": "=\n é"})),
        *({"stdin": text} for text in (None, "", "a\0b", "é" * 100)),
        {"requirements": []},
        {"metadata": {"any": "thing"}},
    ],
    ids=ids,
)
def test_accepted(strict_settings: Settings, change: dict) -> None:
    assert check_request(VmExecuteRequest(**GOOD | change), strict_settings) == "python"


@pytest.mark.parametrize(
    ("said", "meant"), [("py", "python"), (" Python3 ", "python"), ("SH", "bash"), ("bash", "bash")]
)
def test_aliases_come_back_canonical(strict_settings: Settings, said: str, meant: str) -> None:
    assert check_request(VmExecuteRequest(**GOOD | {"language": said}), strict_settings) == meant


def test_agent_ids_alone() -> None:
    check_agent_id("agent-7")
    with pytest.raises(ValidationFailed, match="Code validation failed: agent_id must be"):
        check_agent_id("no good")
