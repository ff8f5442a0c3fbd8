"""Secrets that were given to programs, so that they can be taken out of what comes back."""

from __future__ import annotations

from collections.abc import Mapping

from mulligan.errors import ConfigError, ValidationFailed
from mulligan.policy.secrets import InjectedSecret, Mode, Sanitizer
from mulligan.policy.secrets.injected import MOST_BYTES

MOST_KEPT = 32  # each takes milliseconds whenever there is a new one


class Vault:
    """Every secret an agent's programs have been given, and a sanitizer that knows them.

    A secret stays known after the execution it was for: the program may have written it into a
    file, or a kernel may hold it. It is in memory alone, and is forgotten with the process; the
    oldest are forgotten earlier, where an agent has had ``MOST_KEPT``, or ``MOST_BYTES`` of them.

    Args:
        common: name to value, given to every execution of every agent.
        mode: of the sanitizers.

    Raises:
        ConfigError: one of ``common`` cannot be kept secret.
    """

    def __init__(self, common: Mapping[str, str], mode: Mode) -> None:
        self._mode: Mode = mode
        self._common = [InjectedSecret(name, value) for name, value in common.items()]
        self._of_agents: dict[str, dict[str, InjectedSecret]] = {}
        self._without_own = Sanitizer(self._common, mode=mode)
        self._sanitizers: dict[str, Sanitizer] = {}

    def add(self, agent_id: str, secrets: Mapping[str, str]) -> None:
        """Keeps what an execution of an agent is given.

        Raises:
            ValidationFailed: a value cannot be kept secret, being too short or too long.
        """
        if not secrets:
            return
        own = dict(self._of_agents.get(agent_id, {}))
        for name, value in secrets.items():
            own.pop(value, None)
            own[value] = InjectedSecret(name, value)
        fewest = len(set(secrets.values()))
        while len(own) > MOST_KEPT or (len(own) > fewest and self._size(own) > MOST_BYTES):
            del own[next(iter(own))]
        try:
            sanitizer = Sanitizer([*self._common, *own.values()], mode=self._mode)
        except ConfigError as error:
            raise ValidationFailed(
                str(error.detail), field="secrets", remedy=error.remedy
            ) from None
        self._of_agents[agent_id] = own
        self._sanitizers[agent_id] = sanitizer

    def _size(self, own: Mapping[str, InjectedSecret]) -> int:
        values = {each.value for each in (*self._common, *own.values())}
        return sum(len(value.encode("utf-8", "surrogatepass")) for value in values)

    def sanitizer(self, agent_id: str) -> Sanitizer:
        """Takes out every secret an agent's programs may know, and what looks like one."""
        return self._sanitizers.get(agent_id, self._without_own)
