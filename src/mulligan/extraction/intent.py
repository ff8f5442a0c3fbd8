"""How much a text asks for its code to be run."""

from __future__ import annotations

from mulligan.extraction.blocks import fences
from mulligan.extraction.drafts import drafts, leading_end
from mulligan.extraction.features import ACTIONS, CLUES, FORBIDDEN, INTENT, NO_ACTION, plain
from mulligan.models import ExecutionIntent

MOST_BLOCKS = 10_000
MOST_PROSE = 20_000  # characters looked at, from the end, where people ask
_BLOCKS = 0.1
_FORBIDDEN_MOST = 0.1


def detect_execution_intent(text: str) -> ExecutionIntent:
    """What a text, a person's or a model's, says about running its code.

    Read is its prose only, without code blocks and drafts, and of that the last 20,000 characters.
    ``trigger_keywords`` are the names of phrases that ask for it, ``context_clues`` what else was
    taken into account, ``confidence`` in [0, 1] the sum of their weights (``features.INTENT``,
    ``features.CLUES``). A text that says not to run its code has at most 0.1.

    Returns:
        With ``suggested_action`` as the wire format has it: above 0.8 auto-execute, above 0.5 ask
        the user, above 0.2 show the code only, else no intent.
    """
    blocks = fences(text, MOST_BLOCKS)
    code = [(block.start_pos, block.end_pos) for block in blocks]
    draft = leading_end(text)
    hidden = sorted([*code, *drafts(text, draft, code), *([(0, draft)] if draft else [])])
    prose = plain(_without(text, hidden)[-MOST_PROSE:])
    keywords = [name for name, (_, pattern) in INTENT.items() if pattern.search(prose)]
    clues = [name for name, (_, pattern) in CLUES.items() if pattern.search(prose)]
    confidence = sum(INTENT[name][0] for name in keywords) + sum(CLUES[name][0] for name in clues)
    if blocks:
        confidence += _BLOCKS
        clues.append("code blocks present")
    confidence = min(max(confidence, 0.0), 1.0)
    if FORBIDDEN.search(prose):
        confidence = min(confidence, _FORBIDDEN_MOST)
        clues.append("asked not to run")
    confidence = round(confidence, 2)
    return ExecutionIntent(
        confidence=confidence,
        trigger_keywords=keywords,
        context_clues=clues,
        suggested_action=next(
            (action for least, action in ACTIONS if confidence > least), NO_ACTION
        ),
    )


def _without(text: str, ranges: list[tuple[int, int]]) -> str:
    """``text`` with a blank line in place of each range."""
    kept, at = [], 0
    for start, end in ranges:
        kept.append(text[at : max(start, at)])
        at = max(at, end)
    return "\n\n".join([*kept, text[at:]])
