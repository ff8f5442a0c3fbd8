"""Fences lie where markdown-it-py, reading the whole text, finds them."""

from bisect import bisect_right

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.rules_block import fence, html_block
from markdown_it.rules_block.html_block import HTML_SEQUENCES

from mulligan.extraction.blocks import fences
from mulligan.extraction.lines import Lines

PIECES = [
    *("a", "b c", "```", "```py", "~~~", "~~~ x", "````", "> ", "- ", "1. ", "2) ", "10. ", "+ "),
    *(" ", "  ", "    ", "\t", "# h", "---", "===", "***", "*a*", "`x`", "``` `", "| a |", "x > y"),
    *("<div>", "<!--", "-->", "<b>", "</b>", "<pre>", "</pre>", "<?", "?>", "<!A", ">"),
    *("\n", "\n", "\n", "\n", "\n\n", "\r\n", "\r"),
]  # fmt: skip


def html_ended_by_a_fence(state, start, end, silent):
    """Our own rule, in its simplest form."""
    if not html_block(state, start, end, silent):
        return False
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    if not silent and not any(kind[0].search(first) for kind in HTML_SEQUENCES[:5]):
        inside = (line for line in range(start + 1, state.line) if fence(state, line, end, True))
        state.line = next(inside, state.line)
    return True


def reference(text: str) -> list[tuple[list[int], str, str]]:
    parser = MarkdownIt("commonmark", {"maxNesting": 1000})
    parser.disable(["inline", "text_join", "reference"])
    alternatives = {"alt": ["paragraph", "reference", "blockquote"]}
    parser.block.ruler.at("html_block", html_ended_by_a_fence, alternatives)
    # It passes over a last line that is blank and has no end, which CommonMark does not.
    whole = text if text.endswith(("\n", "\r")) else f"{text}\n"
    tokens = [token for token in parser.parse(whole) if token.type == "fence"]
    return [(token.map, token.info.strip(" \t"), token.content) for token in tokens]


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_fences_are_those_of_a_commonmark_parser(text: str) -> None:
    lines = Lines.of(text)
    found = [
        (
            [
                bisect_right(lines.starts[:-1], block.start_pos) - 1,
                bisect_right(lines.starts[:-1], block.end_pos),
            ],
            block.label.info,
            block.code,
        )
        for block in fences(text, 100)
        if not block.nested
    ]
    if any(block.nested for block in fences(text, 100)):
        return
    expected = reference(text)
    # The last line's end is the one that was added.
    assert (
        found
        == [
            (
                place,
                info,
                content if text.endswith(("\n", "\r")) or content == code else content[:-1],
            )
            for (place, info, content), (_, _, code) in zip(expected, found, strict=False)
        ]
        + expected[len(found) :]
    )
