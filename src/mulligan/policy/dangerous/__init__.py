"""Judges code by what it would do: commands, calls and effects, by rules that are data.

Nothing is executed. ``docs/dangerous-patterns.md`` says how rules are written and what is not seen.
"""

from mulligan.policy.dangerous.findings import Decision, Finding
from mulligan.policy.dangerous.judge import judge
from mulligan.policy.dangerous.rules import RuleSet, load_rules

__all__ = ["Decision", "Finding", "RuleSet", "judge", "load_rules"]
