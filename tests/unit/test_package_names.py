"""Which requirements are taken, and in which words the others are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.errors import ValidationFailed
from mulligan.packages.names import check_requirements

TAKEN = [
    ("python", "numpy", "numpy"),
    ("python", " NumPy >= 1.26 , < 3 ", "numpy<3,>=1.26"),
    ("python", "Zope.Interface[test]==6.0", "zope-interface[test]==6.0"),
    ("python", 'tomli; python_version < "3.11"', 'tomli; python_version < "3.11"'),
    ("javascript", "lodash", "lodash"),
    ("javascript", "lodash@^4.17", "lodash@^4.17"),
    ("javascript", "@types/node@>=18 <21", "@types/node@>=18 <21"),
    ("javascript", "left-pad@latest", "left-pad@latest"),
]
REFUSED = [
    ("python", "--index-url=http://a.invalid", "is an option"),
    ("python", "-r other.txt", "is an option"),
    ("python", "-e .", "is an option"),
    ("python", "# numpy", "is an option or a comment"),
    ("python", "./wheels/a.whl", "is a path"),
    ("python", "/etc/passwd", "is a path"),
    ("python", "../up", "is a path"),
    ("python", "a-1.0-py3-none-any.whl", "is a path"),
    ("python", "pkg @ https://a.invalid/p.whl", "names an address"),
    ("python", "pkg@file:///etc", "names an address"),
    ("python", "git+https://a.invalid/p", "names an address"),
    ("python", "numpy --hash=sha256:00", "is none"),
    ("python", "numpy pandas", "is none"),
    ("python", "numpy\npandas", "control characters"),
    ("python", "", "is empty"),
    ("python", "a" * 201, "more than 200 characters"),
    ("python", "numpy>=", "is none"),
    ("javascript", "--registry=http://a.invalid", "is an option"),
    ("javascript", "user/repository", "names an address"),
    ("javascript", "github:user/repository", "names an address"),
    ("javascript", "x@npm:other@1", "names an address"),
    ("javascript", "x@file:../up", "names an address"),
    ("javascript", "x@https://a.invalid/x.tgz", "names an address"),
    ("javascript", "x@../up", "names an address"),
    ("javascript", "./local", "is a path"),
    ("javascript", "x.tgz", "is a path"),
    ("javascript", "UPPER@@", "is none"),
    ("javascript", "~name", "is none"),
    ("javascript", "@~scope/name", "names an address"),
    ("bash", "curl", "not supported for bash"),
    ("rust", "serde", "not supported for rust"),
]


@pytest.mark.parametrize(("language", "text", "normal"), TAKEN)
def test_what_is_taken(language: str, text: str, normal: str) -> None:
    assert check_requirements([text, text], language, 100) == [normal]


@pytest.mark.parametrize(("language", "text", "why"), REFUSED)
def test_what_is_refused(language: str, text: str, why: str) -> None:
    with pytest.raises(ValidationFailed, match=why) as caught:
        check_requirements([text], language, 100)
    assert caught.value.field == "requirements"
    assert caught.value.remedy
    if language in ("python", "javascript"):
        assert repr(text[:80]) in str(caught.value.detail)


def test_too_many_are_refused() -> None:
    with pytest.raises(ValidationFailed, match="there are 200 requirements, more than 100"):
        check_requirements([f"p{number}" for number in range(200)], "python", 100)


@given(st.text(max_size=300), st.sampled_from(["python", "javascript"]))
def test_what_is_taken_reaches_nowhere_else(text: str, language: str) -> None:
    try:
        (normal,) = check_requirements([text], language, 100)
    except ValidationFailed:
        return
    assert not normal.startswith(("-", ".", "/", "~", "#"))
    assert ":" not in normal.partition(";")[0]
    assert "\n" not in normal
    again = check_requirements([normal], language, 100)
    assert again == [normal]
