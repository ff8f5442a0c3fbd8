"""The way in: code and rules go in, findings come out."""

from __future__ import annotations

import re
from typing import Final

from mulligan.languages import canonical
from mulligan.policy.dangerous import languages
from mulligan.policy.dangerous.budget import LONGEST_CODE, TooHardError
from mulligan.policy.dangerous.findings import Finding, excerpt
from mulligan.policy.dangerous.judgement import Judgement, outermost
from mulligan.policy.dangerous.rules import RuleSet

# A command line that is called something else: whoever runs it, runs it by a shell.
_COMMAND: Final = re.compile(
    r"\s*(?:\$ )?(?:sudo |export \w+=\S* *; *)*"
    r"(?:python[\d.]*|node|bash|sh|zsh|perl|php|ruby|curl|wget|nc|ncat|socat|rm|dd|docker|chmod)"
    r" +-{0,2}[\w./~:'\"]"
)
# Prompts that were copied with their commands; blanks in their place keep every offset.
_PROMPT: Final = re.compile(r"^([ \t]*)\$ (?=\S)", re.MULTILINE)
TOO_HARD: Final = "too-hard-to-judge"
"""Id of the finding for what cannot be judged; it is no rule and cannot be switched off."""


def judge(code: str, language: str, rules: RuleSet) -> list[Finding]:
    """What rules a text meets, in the order of the text.

    A text that is too large, too deep or takes too long gets a finding ``TOO_HARD`` that blocks:
    what cannot be judged is not let through. Any input is done within two seconds.

    Args:
        language: a name or alias of ``mulligan.languages``; an unknown one is read as Bash.
    """
    name = canonical(language)
    name = name if name in languages.KNOWN else "bash"
    languages.load(name)
    judgement = Judgement(rules)
    source = outermost(_PROMPT.sub(r"\1  ", code) if name == "bash" else code)
    try:
        if len(source.data) > LONGEST_CODE:
            raise TooHardError(f"is too large to judge (over {LONGEST_CODE} bytes)")  # noqa: TRY301
        languages.walk(judgement, source, name)
        if name != "bash" and _COMMAND.match(code):
            languages.walk(judgement, outermost(_PROMPT.sub(r"\1  ", code)), "bash")
    except (TooHardError, RecursionError, MemoryError) as error:
        reason = str(error) if isinstance(error, TooHardError) else "is nested too deep to judge"
        judgement.findings[TOO_HARD, 1, 1] = Finding(
            TOO_HARD, "block", f"The code {reason}", 1, 1, excerpt(code[:400])
        )
    return sorted(
        judgement.findings.values(),
        key=lambda finding: (finding.line, finding.column, finding.decision != "block"),
    )
