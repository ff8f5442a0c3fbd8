"""What a search goes by, and which blocks a page needs."""

from hypothesis import given
from hypothesis import strategies as st

from mulligan.history.blocks import Block, newest
from mulligan.history.columns import escape, unescape
from mulligan.history.words import search_words, words_of


def test_words_and_parts_of_identifiers() -> None:
    assert words_of("max_value = HTTPServer2(a-b)") == {
        "max_value", "max", "value", "httpserver2", "http", "server", "2", "a", "b",
    }  # fmt: skip
    assert words_of("Straße", None, "数据 x🎉") == {"strasse", "数", "据", "x", "🎉"}
    assert words_of("") == set()


def test_a_search_is_not_taken_apart() -> None:
    assert search_words("max_value max_value ZeroDivisionError == %") == [
        "max_value",
        "zerodivisionerror",
    ]
    assert search_words("\x00 \ud800 ' \" %") == []


def test_words_have_an_end() -> None:
    assert words_of("a" * 70_000) == {"a" * 64}
    assert search_words("a" * 70_000) == ["a" * 64]
    everything = " ".join(f"{number:x}{'漢' * 3}{number}" for number in range(30_000))
    assert sum(len(word.encode()) for word in words_of(*[everything] * 4)) < 1_000_000


@given(st.text())
def test_every_search_for_a_whole_text_finds_it(text: str) -> None:
    assert set(search_words(text)) <= words_of(text)


texts = st.text(st.one_of(st.characters(), st.sampled_from("\x00\x1a\ud800a0")))


@given(texts, texts)
def test_texts_come_back_and_stay_different(one: str, other: str) -> None:
    assert unescape(escape(one)) == one
    assert (escape(one) == escape(other)) == (one == other)
    assert "\x00" not in escape(one)
    assert escape(one).encode().decode() == escape(one)


@given(
    st.lists(st.sets(st.integers(0, 60), min_size=1), max_size=8),
    st.integers(0, 20),
    st.data(),
)
def test_the_blocks_of_a_page_have_its_rows(rows: list, count: int, data: st.DataObject) -> None:
    """With spans that may be wider than the rows, as after rows were dropped."""
    blocks = []
    for number, numbers in enumerate(rows):
        wider = data.draw(st.integers(0, 5))
        span = (min(numbers) - wider, max(numbers) + wider)
        blocks.append(Block(number, len(numbers), *span, data.draw(st.booleans())))
    blocks.sort(key=lambda block: -block.max_seq)
    chosen = {block.id for block in newest(blocks, count)}

    def page(of: set[int]) -> list[int]:
        wanted = [seq for number in of for seq in rows[number]]
        return sorted(wanted, reverse=True)[:count]

    assert page(chosen) == page({block.id for block in blocks})
