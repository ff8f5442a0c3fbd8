"""Secrets in outputs: injected values in every encoding, streams cut anywhere, and what stays."""

import base64
import json
import random
import urllib.parse

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mulligan.errors import ConfigError
from mulligan.policy.secrets import Finding, InjectedSecret, PatternSet, Sanitizer
from support import samples

VALUE = "tR4m-w7/Qe+9!z\"Lx'k"
MARK = "[redacted:secret KEY]"
SANITIZER = Sanitizer([InjectedSecret("KEY", VALUE)])
RAW = VALUE.encode()
QUIET = PatternSet({"rules": {"assignment": False, "bare": False, "blocks": False}})
INJECTED_ONLY = Sanitizer([InjectedSecret("KEY", VALUE)], QUIET)


def wrapped(text: str, width: int) -> str:
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


ENCODINGS = {
    "raw": VALUE,
    "base64": base64.b64encode(RAW).decode(),
    "base64_unpadded": base64.b64encode(RAW).decode().rstrip("="),
    "base64_with_newline": base64.b64encode(RAW + b"\n").decode(),
    "base64_wrapped": wrapped(base64.b64encode(RAW).decode(), 12),
    "base64_wrapped_crlf": wrapped(base64.b64encode(RAW).decode(), 12).replace("\n", "\r\n"),
    "base64_in_json": json.dumps(base64.encodebytes(RAW * 1).decode()),
    "base64_of_base64": base64.b64encode(base64.b64encode(RAW)).decode(),
    "base64_of_utf16": base64.b64encode(VALUE.encode("utf-16-le")).decode(),
    "base64_in_url": urllib.parse.quote(base64.b64encode(RAW).decode(), safe=""),
    "url_safe": base64.urlsafe_b64encode(RAW).decode(),
    "base32": base64.b32encode(RAW).decode(),
    "hex": RAW.hex(),
    "hex_upper": RAW.hex().upper(),
    "hex_colons": RAW.hex(":"),
    "hex_pairs": RAW.hex(" ", 2),
    "hex_c": ", ".join(f"0x{c:02x}" for c in RAW),
    "hex_escapes": "".join(f"\\x{c:02x}" for c in RAW),
    "octal_escapes": "".join(f"\\{c:03o}" for c in RAW),
    "decimal": str(list(RAW)),
    "percent": urllib.parse.quote(VALUE, safe=""),
    "percent_lower": urllib.parse.quote(VALUE, safe="").lower().replace("tr4m", "tR4m")
    .replace("qe", "Qe").replace("lx", "Lx"),
    "percent_all": "".join(f"%{c:02X}" for c in RAW),
    "percent_twice": urllib.parse.quote(urllib.parse.quote(VALUE, safe=""), safe=""),
    "form": urllib.parse.quote_plus(VALUE),
    "json": json.dumps(VALUE),
    "json_in_json": json.dumps(json.dumps(VALUE)),
    "json_unicode": "".join(f"\\u{ord(c):04x}" for c in VALUE),
    "repr": repr(VALUE),
    "html": VALUE.replace('"', "&quot;").replace("'", "&#x27;"),
    "shell": "'" + VALUE.replace("'", "'\\''") + "'",
    "shell_double": "'" + VALUE.replace("'", "'\"'\"'") + "'",
    "backslashes": "".join("\\" + c for c in VALUE),
    "quoted_printable": "".join(f"={c:02X}" if chr(c) in "=!\"'" else chr(c) for c in RAW),
    "spaced": " ".join(VALUE),
    "one_a_line": "\n".join(VALUE),
    "list": str(list(VALUE)),
    "reversed": VALUE[::-1],
    "utf16": VALUE.encode("utf-16-le").decode("latin-1"),
}  # fmt: skip


@pytest.mark.parametrize("written", ENCODINGS.values(), ids=ENCODINGS)
def test_an_injected_value_is_found_however_it_is_written(written: str) -> None:
    done = SANITIZER.redact(f"before {written} after\n")
    assert MARK in done.text
    assert done.text.startswith("before ")
    assert done.text.endswith(" after\n")
    assert len(done.text) < len("before  after\n") + len(MARK) + 8, done.text
    assert done.findings[0].kind == "secret KEY"


@settings(deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40), st.booleans(), st.integers(0, 80))
def test_any_alignment_in_base64(before: bytes, after: bytes, safe: bool, width: int) -> None:
    encode = base64.urlsafe_b64encode if safe else base64.b64encode
    text = encode(before + RAW + after).decode()
    text = wrapped(text, width) if width > 8 else text
    out = INJECTED_ONLY.redact(text).text
    assert out.count(MARK) == 1
    kept = out.replace(MARK, "").replace("\n", "")
    whole = encode(before + RAW + after).decode()
    first = -(-(len(before) * 8) // 6)
    last = (len(before) + len(RAW)) * 8 // 6
    assert whole[first:last] not in kept
    assert whole.startswith(kept[: first - 1] if first else "")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(sorted(ENCODINGS)), st.text(max_size=60))
def test_an_injected_value_never_comes_out(before: str, encoding: str, after: str) -> None:
    out = SANITIZER.redact(before + ENCODINGS[encoding] + after).text
    assert ENCODINGS[encoding] not in out
    assert VALUE not in out


LINES = [
    VALUE, base64.b64encode(b"user:" + RAW).decode(), RAW.hex(), VALUE[:9], VALUE[:-1], "plain",
    "password = 'Tr0ub4dor&3'", "Authorization: Bearer abcDEF123456ghiJKL789", "é ü 漢字 \ud800",
    "-" * 5 + "BEGIN RSA PRIVATE KEY" + "-" * 5, samples.characters("b64", 64, random.Random(1)),
    "-" * 5 + "END RSA PRIVATE KEY" + "-" * 5, "- name: DB_PASSWORD",
    "  value: Tr0ub4dor&3", "", " ", "\t", "%7", "\\u00", "token: ", "x" * 70,
]  # fmt: skip
texts = st.lists(st.sampled_from(LINES) | st.text(max_size=12), max_size=12).flatmap(
    lambda parts: st.sampled_from(["", "\n", " ", "\r\n"]).map(lambda sep: sep.join(parts))
)


@settings(max_examples=300, deadline=None)
@given(texts, st.lists(st.integers(1, 40), max_size=60), st.booleans())
@example("-" * 5 + "BEGIN PRIVATE KEY" + "-" * 5 + "\n", [3] * 12, False)
def test_however_a_stream_is_cut_the_output_is_the_same(
    text: str, sizes: list[int], truncated: bool
) -> None:
    data = text.encode("utf-8", "surrogatepass")
    whole = SANITIZER.redact_bytes(data, truncated=truncated)
    stream = SANITIZER.stream()
    out, at = [], 0
    for size in [*sizes, len(data)]:
        out.append(stream.feed(data[at : at + size]))
        at += size
    out.append(stream.finish(truncated=truncated))
    assert b"".join(out) == whole.text
    assert sorted(map(repr, stream.findings)) == sorted(map(repr, whole.findings))


def test_byte_by_byte_through_long_lines() -> None:
    rng = random.Random(7)
    token = samples.expand("dapi{hex:32}", rng)
    kinds = ["abc def ", token + " ", VALUE, "x=1;"]
    parts = [rng.choice(["\n", *kinds] if i % 97 == 0 else kinds) for i in range(25_000)]
    data = "".join(parts).encode()
    whole = SANITIZER.redact_bytes(data)
    assert token.encode() not in whole.text
    assert RAW not in whole.text
    for size in (1, 7, 4096, 70_000):
        stream = SANITIZER.stream()
        pieces = [stream.feed(data[i : i + size]) for i in range(0, len(data), size)]
        assert b"".join([*pieces, stream.finish()]) == whole.text
        assert stream.count == whole.count


@pytest.mark.parametrize("encoding", ["raw", "base64", "hex", "percent", "json"])
def test_a_cut_output_does_not_end_in_part_of_a_secret(encoding: str) -> None:
    written = ENCODINGS[encoding].strip('"')
    for size in range(9, len(written)):
        cut = f"value {written[:size]}"
        out = SANITIZER.redact(cut, truncated=True).text
        left = out.removeprefix("value ").removesuffix("[redacted:secret KEY]")
        assert len(left) <= 1 or not written.startswith(left), (size, out)


def test_a_cut_output_does_not_end_in_part_of_a_token() -> None:
    rng = random.Random(2)
    for template in (
        "ghp_{b62:30}{crc}",
        "sk-proj-{url:80}",
        "{jwt}",
        "AKIA{b32:16}",
        "glpat-{url:20}",
    ):
        token = samples.expand(template, rng)
        for size in range(9, len(token)):
            out = Sanitizer().redact(f"got {token[:size]}", truncated=True).text
            assert out.startswith("got [redacted:"), (size, out)
    assert Sanitizer().redact("no secret at all", truncated=True).count == 0


def test_a_cut_key_block_goes() -> None:
    lines = ["-" * 5 + "BEGIN OPENSSH PRIVATE KEY" + "-" * 5, *(["b3BlbnNzaC1r" * 5] * 9)]
    for kept in range(2, 10):
        out = Sanitizer().redact("see\n" + "\n".join(lines[:kept]), truncated=True).text
        assert out == "see\n[redacted:private-key]"


def test_what_is_held_back_is_little() -> None:
    stream = SANITIZER.stream()
    assert stream.feed(b"one line\n") == b"one line\n"
    assert stream.feed(b"no end yet, ") == b""
    assert stream.held == 12
    assert stream.flush_idle() == b"no end yet, "
    assert stream.feed(b"a\nend\n" + RAW[:7]) == b"a\nend\n"
    assert stream.held == 7
    assert stream.flush_idle() == b""
    assert stream.feed(RAW[7:] + b"\n") == MARK.encode() + b"\n"
    assert stream.held == 0
    assert stream.feed(b"y" * 1_000_000) != b""
    assert stream.held <= 80 * 1024
    assert stream.finish().strip(b"y") == b""


def test_after_an_idle_flush_the_rest_of_the_line_is_judged_whole() -> None:
    stream = Sanitizer().stream()
    stream.feed(b"the database password = ")
    assert stream.flush_idle() == b"the database password = "
    stream.feed(b"'Tr0ub")
    assert stream.flush_idle() == b""
    assert stream.feed(b"4dor&3' ok\n") == b"'[redacted:password]' ok\n"


def test_a_prompt_without_line_end_is_shown() -> None:
    for prompt in (b"Continue? [y/N] ", b"Name:", b">>> ", b"(Pdb) ", b"$ "):
        stream = SANITIZER.stream()
        assert stream.feed(prompt) + stream.flush_idle() == prompt


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=["Nd"]), max_size=300))
def test_text_without_secrets_is_untouched(text: str) -> None:
    done = Sanitizer([InjectedSecret("KEY", "q7!Rk2#Vw9$Zt4%")]).redact(text)
    if not done.count:
        assert done.text == text
    assert done.text == text or "-" in text or "=" in text or ":" in text


def test_a_second_time_changes_nothing() -> None:
    text = f"password={VALUE}\nAPI_KEY=abc123def456ghi789\nAuthorization: Bearer abcDEF1234ghiJKL\n"
    once = SANITIZER.redact(text).text
    assert SANITIZER.redact(once).text == once


def test_places_are_of_the_original() -> None:
    text = f"é {VALUE} ü password='Tr0ub4dor&3'\n漢 {VALUE}"
    done = SANITIZER.redact(text)
    assert [text[f.start : f.end] for f in done.findings] == [VALUE, "Tr0ub4dor&3", VALUE]
    data = text.encode()
    in_bytes = SANITIZER.redact_bytes(data).findings
    assert [data[f.start : f.end].decode() for f in in_bytes] == [VALUE, "Tr0ub4dor&3", VALUE]
    assert "Tr0ub" not in repr(done.findings) + repr(InjectedSecret("KEY", VALUE))


def test_structures() -> None:
    value = {
        "stdout": f"x {VALUE}", "n": 1, "none": None, "list": ["a", {"password": "Tr0ub4dor&3"}],
        VALUE: "key", "raw": RAW, "note": "fine", "token_count": "12",
    }  # fmt: skip
    done = SANITIZER.redact_structure(value)
    assert done.text == {
        "stdout": f"x {MARK}", "n": 1, "none": None,
        "list": ["a", {"password": "[redacted:password]"}],
        MARK: "key", "raw": MARK.encode(), "note": "fine", "token_count": "12",
    }  # fmt: skip
    assert done.count == 4
    deep: list = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="levels"):
        SANITIZER.redact_structure(deep)


def test_modes() -> None:
    secret = [InjectedSecret("KEY", VALUE)]
    assert Sanitizer(secret, mode="off").redact(f"x {VALUE}").text == f"x {VALUE}"
    done = Sanitizer(secret, mode="block").redact(f"first\nx {VALUE}\nrest")
    assert done.text == "[output withheld: it holds a secret (secret KEY)]\n"
    assert done.blocked
    assert not Sanitizer(secret, mode="block").redact("all well").blocked
    stream = Sanitizer(secret, mode="block").stream()
    assert stream.feed(b"one\n") == b"one\n"
    assert b"withheld" in stream.feed(f"x {VALUE}\n".encode())
    assert stream.feed(b"more\n") + stream.finish() == b""
    assert stream.blocked
    with pytest.raises(ConfigError, match="secrets mode 'none'"):
        Sanitizer(mode="none")  # type: ignore[arg-type]


def test_short_values_are_found_as_whole_words_only() -> None:
    sanitizer = Sanitizer([InjectedSecret("PIN", "48a1")])
    assert sanitizer.redact("pin 48a1, x48a1, 48a12 (48a1)").text == (
        "pin [redacted:secret PIN], x48a1, 48a12 ([redacted:secret PIN])"
    )


def test_long_values_are_found_in_part() -> None:
    rng = random.Random(4)
    value = samples.characters("b64", 1500, rng)
    sanitizer = Sanitizer([InjectedSecret("BIG", value)])
    for written in (value, base64.b64encode(value.encode()).decode(), value[300:800]):
        out = sanitizer.redact(written).text
        left = max(map(len, out.replace("[redacted:secret BIG]", "\n").split("\n")))
        assert left < 64, out
    assert sanitizer.redact(value).text == "[redacted:secret BIG]"


def test_two_values_one_the_beginning_of_the_other() -> None:
    sanitizer = Sanitizer([InjectedSecret("A", "abcd1234"), InjectedSecret("B", "abcd1234efgh")])
    assert sanitizer.redact("abcd1234 abcd1234efgh abcd1234ef").text == (
        "[redacted:secret A] [redacted:secret B] [redacted:secret A]ef"
    )


REFUSED = {
    "short": (InjectedSecret("A", "abc"), "a value of 3 bytes"),
    "blank": (InjectedSecret("A", " " * 12), "cannot be kept secret"),
    "long": (InjectedSecret("A", "x" * 9000), "a value of 9000 bytes"),
    "name": (InjectedSecret("a b", "abcdefgh"), "secret name 'a b'"),
}


@pytest.mark.parametrize(("secret", "says"), REFUSED.values(), ids=REFUSED)
def test_values_that_cannot_be_kept_secret_are_refused(secret: InjectedSecret, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Sanitizer([secret])
    assert caught.value.field == "secrets"
    assert secret.value not in str(caught.value)


def test_findings_are_bounded() -> None:
    done = SANITIZER.redact(f"{VALUE} " * 5000)
    assert done.count == 5000
    assert len(done.findings) == 1000
    assert done.findings[0] == Finding("secret KEY", 0, len(VALUE))
