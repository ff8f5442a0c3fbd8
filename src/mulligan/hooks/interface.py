"""What a hook is."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from mulligan.models.hooks import (
    Allow,
    HookDecision,
    PostLlmContext,
    PostToolContext,
    PreLlmContext,
    PreToolContext,
)

STAGES = ("pre_tool", "post_tool", "pre_llm", "post_llm")

Answer = HookDecision | Awaitable[HookDecision]


class Hook:
    """Base of hooks; a subclass overrides the stages it has something to say to.

    An ``async def`` runs in the event loop and must not block it. A plain ``def`` runs in a thread
    and may. A gate (``observer`` is False) decides; whatever it does wrong blocks. An
    observer is told what was decided and decides nothing.

    Args of every stage: a context of the hook's own. A gate returns Allow, Block or AskUser;
    Modify where there is code, a prompt or an answer to rewrite; ModifyOutput or Rollback in
    ``post_tool`` alone. A gate that rewrites is asked again about the final text, so it has to
    leave alone what it made itself.
    """

    name: str = ""
    observer: bool = False
    timeout_ms: int | None = None  # None: the manager's
    stages: Sequence[str] | None = None  # None: those that are overridden

    def is_quick(self, context: object) -> bool:  # noqa: ARG002
        """Whether an answer to this context comes within a millisecond or so.

        The hook is then called where its caller is, without a thread and a copy of its own: for
        hooks that change nothing in what they are shown.
        """
        return False

    def pre_tool(self, context: PreToolContext) -> Answer:  # noqa: ARG002
        """Before code runs."""
        return Allow()

    def post_tool(self, context: PostToolContext) -> Answer:  # noqa: ARG002
        """After code ran, before its texts go back."""
        return Allow()

    def pre_llm(self, context: PreLlmContext) -> Answer:  # noqa: ARG002
        """Before a prompt goes to a language model."""
        return Allow()

    def post_llm(self, context: PostLlmContext) -> Answer:  # noqa: ARG002
        """After a language model answered."""
        return Allow()


def stages_of(hook: Hook) -> list[str]:
    """The stages a hook has something to say to."""
    if hook.stages is not None:
        return [name for name in STAGES if name in hook.stages]
    return [name for name in STAGES if getattr(type(hook), name) is not getattr(Hook, name)]
