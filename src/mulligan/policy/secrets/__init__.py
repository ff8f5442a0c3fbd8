"""Keeping secrets out of outputs: injected values in any encoding, and what looks like a secret."""

from mulligan.policy.secrets.injected import InjectedSecret
from mulligan.policy.secrets.patterns import Pattern, PatternSet
from mulligan.policy.secrets.sanitizer import Mode, Redacted, Sanitizer
from mulligan.policy.secrets.stream import Finding, StreamRedactor

__all__ = [
    "Finding",
    "InjectedSecret",
    "Mode",
    "Pattern",
    "PatternSet",
    "Redacted",
    "Sanitizer",
    "StreamRedactor",
]
