"""What came of a probe, and of all of them."""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = (
    "kernel",
    "namespaces",
    "runtime",
    "network",
    "files",
    "resources",
    "processes",
    "output",
    "parser",
)
TITLES = {
    "kernel": "Kernel surface",
    "namespaces": "Capabilities and namespaces",
    "runtime": "Runtime: the agent and what is around programs",
    "network": "Network",
    "files": "Files",
    "resources": "Resources",
    "processes": "Processes",
    "output": "Output",
    "parser": "What reads the output",
}
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Outcome:
    """What happened; ``state`` is "passed", "failed" or, where it was not tried, "skipped"."""

    state: str
    happened: str


@dataclass(frozen=True)
class Verdict:
    """A probe and its outcome.

    Attributes:
        outside: what is expected without a VM, see ``inside.probing.Probe``.
        control: what the same did without a VM; None if there was no control.
    """

    id: str
    tried: str
    must: str
    outside: str
    vm: Outcome
    control: Outcome | None = None

    @property
    def group(self) -> str:
        """The group it belongs to."""
        return self.id.partition(".")[0]

    @property
    def proves(self) -> bool | None:
        """Whether it tells a VM from none; None without a control that says so."""
        if self.control is None or self.control.state == SKIPPED:
            return None
        return self.vm.state == PASSED and self.control.state == FAILED


@dataclass(frozen=True)
class Report:
    """All verdicts of a run, and where it took place."""

    verdicts: tuple[Verdict, ...]
    host: dict[str, str]

    def count(self, state: str) -> int:
        """How many are in a state."""
        return sum(each.vm.state == state for each in self.verdicts)

    @property
    def controlled(self) -> bool:
        """Whether there was a control."""
        return any(each.control is not None for each in self.verdicts)

    @property
    def proving(self) -> int:
        """How many fail without a VM and pass in one."""
        return sum(each.proves is True for each in self.verdicts)

    @property
    def control_failed(self) -> bool:
        """Whether the control held most probes back: then they prove nothing about VMs."""
        tried = [each for each in self.verdicts if each.proves is not None]
        return bool(tried) and 2 * sum(each.proves is True for each in tried) <= len(tried)

    @property
    def good(self) -> bool:
        """Whether every probe that was tried passed, and some were."""
        return self.count(PASSED) > 0 and not self.count(FAILED) and not self.control_failed
