"""What hooks decided, as it is told and kept."""

from __future__ import annotations

from pydantic import StrictStr

from mulligan.models.base import F64, Struct


class Verdict(Struct):
    """What a hook decided about an execution, and how long it took.

    ``decision`` is "allow", "block", "modify", "ask" or "rollback" of a gate and "observe" of an
    observer; ``stage`` is "pre_tool", "post_tool", "pre_llm" or "post_llm". A gate that judged
    again after a rewrite has a verdict for each time.
    """

    hook: StrictStr
    decision: StrictStr
    reason: StrictStr | None = None
    duration_ms: F64 = 0.0
    stage: StrictStr = "pre_tool"
