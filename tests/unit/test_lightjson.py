"""The light JSON says and reads what the standard library's does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.guest import lightjson
from mulligan.guest.lightjson import dumps, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@given(VALUES)
def test_values_come_back(value: object) -> None:
    assert json.loads(dumps(value)) == value
    assert loads(json.dumps(value, indent=1)) == value
    assert loads(dumps(value)) == value


@pytest.mark.parametrize(
    "text", ["", " ", "{", "[1,]", "{'a': 1}", "NaN", "-Infinity", "1 2", "tru"]
)
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (any will do)
        loads(text)


def test_what_is_no_json_where_nobody_has_imported_json() -> None:
    """As in an agent: a program that could crash it would end its VM."""
    source = Path(lightjson.__file__).parents[2]
    texts = ["{", "[1,]", '["x"]]', "{'a': 1}", '{"a" 1}', '"\\x"', '"\n"', "[1 2]", "1" * 5000]
    code = f"""
import sys
sys.path.insert(0, {str(source)!r})
from mulligan.guest.lightjson import loads
for text in {texts!r}:
    try:
        loads(text)
    except ValueError:
        continue
    raise SystemExit(text)
assert "json" not in sys.modules or sys.version_info >= (3, 12)  # its scanner does, for an error
"""
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@given(st.text())
def test_any_text_is_read_as_the_standard_library_reads_it(text: str) -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        expected = json.loads(text, parse_constant=refuse)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011  (any will do)
            loads(text)
    else:
        assert loads(text) == expected


def test_what_frames_do_not_carry() -> None:
    with pytest.raises(TypeError):
        dumps({"a": 1.5})
