"""Base64 of files in lines is no list of tokens."""

import base64
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.policy.secrets import Sanitizer

SANITIZER = Sanitizer()
NOISE = base64.b64encode(random.Random(7).randbytes(3000)).decode()
WIDTHS = [64, 76, 100, 120]


def wrapped(width: int, prefix: str = "") -> str:
    lines = (NOISE[at : at + width] for at in range(0, len(NOISE), width))
    return "".join(f"{prefix}{line}\n" for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("prefix", ["", "    ", "> ", '"'])
def test_wrapped_base64_stays(width: int, prefix: str) -> None:
    text = f"the picture:\n{wrapped(width, prefix)}done\n"
    # The first line may be taken for a token, and what follows one without + and /.
    assert len(SANITIZER.redact(text).findings) <= 6


def test_all_of_a_picture_stays() -> None:
    picture = base64.encodebytes(b"\x89PNG\r\n\x1a\n" + random.Random(8).randbytes(900)).decode()
    assert SANITIZER.redact(picture).text == picture


@given(cuts=st.lists(st.integers(1, 900), max_size=8), width=st.sampled_from(WIDTHS))
def test_however_a_stream_is_cut(cuts: list[int], width: int) -> None:
    data = f"x\n{wrapped(width)[:800]}\nend of it\n{wrapped(width)[:90]}".encode()
    stream = SANITIZER.stream()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [stream.feed(data[a:b]) for a, b in pairwise(places)]
    out = b"".join([*pieces, stream.finish(truncated=False)])
    assert out.decode() == SANITIZER.redact(data.decode()).text


def test_tokens_in_lines_are_tokens() -> None:
    tokens = [NOISE[at : at + 42].replace("+", "x").replace("/", "y") for at in (5, 105, 205)]
    text = "".join(f"{token}\n" for token in tokens)
    assert len(SANITIZER.redact(text).findings) == 3


def test_a_certificate_stays() -> None:
    body = "\n".join(NOISE[at : at + 64] for at in range(0, 64 * 9, 64))
    last = NOISE[700:742].replace("+", "x").replace("/", "y")
    text = f"-----BEGIN CERTIFICATE-----\n{body}\n{last}==\n-----END CERTIFICATE-----\n"
    assert SANITIZER.redact(text).text == text
