"""The light JSON says and reads what the standard library's does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
