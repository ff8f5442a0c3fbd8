"""Whatever the text, extraction ends, raises nothing, and its places are right."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.extraction import detect_execution_intent, extract

PIECES = st.sampled_from(
    ["```", "```py\n", "~~~", "\n", "\r\n", "\r", "> ", "- ", "1. ", "   ", "\t", "`", "{", "(("]
    + ["print(1)", "$ ls", ">>> 1", "python3 -c 'x'", "<div>", "<!--", "<think>", "</think>"]
    + ["cat <<EOF\n", "EOF\n", "\0", "\u2028", "\ud800", "é😀", "don't run this", "x = "]
    + ["'''", "```bash\n", "```console\n", "```markdown\n"]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(PIECES, PIECES, st.text(max_size=4))).map("".join))


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_places_are_right_whatever_the_text(text: str) -> None:
    end = 0
    original = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for block in extract(text):
        seen = block.metadata
        assert end <= block.start_pos <= seen["code_start"] <= seen["code_end"] <= len(text)
        assert seen["code_start"] <= block.end_pos + 2
        assert 0.0 <= block.execution_confidence <= 1.0
        place = original[block.start_pos : block.end_pos]
        for line in block.code.split("\n"):
            assert line.strip() in place.replace("\r", "\n") or "\t" in place, (line, place)
        end = block.end_pos
        slice_ = text.encode("utf-8", "replace")  # one byte for half a pair, three for U+FFFD
        if "\ud800" not in text:
            assert slice_[seen["start_byte"] : seen["end_byte"]].decode() == place


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_intent_of_whatever_text(text: str) -> None:
    assert 0.0 <= detect_execution_intent(text).confidence <= 1.0


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="`\r\n")), max_size=8))
def test_code_comes_back_as_it_was(lines: list[str]) -> None:
    code = "".join(f"{line}\n" for line in lines)
    for prefix in ("", "> ", "  "):
        inside = "".join(f"{prefix}{line}\n" for line in lines)
        (block,) = extract(f"a\n\n{prefix}```cobol\n{inside}{prefix}```\n\nb\n")
        assert block.code == code


def test_deep_quotes_are_done_at_once() -> None:
    text = ("> " * 300 + "\n") * 50 + "- " * 300 + ">" * 3000 + "x\n```py\n1\n```\n"
    start = time.process_time()
    extract(text)
    detect_execution_intent(text)
    assert time.process_time() - start < 60  # it took forever
