"""What VMs reached over the network, and what they were refused."""

from __future__ import annotations

from pydantic import Field, StrictBool, StrictStr

from mulligan.models.base import U64, Request, Struct, UtcTime


class SecretReference(Request):
    """A secret of the server's that a program uses without having it.

    ``value_from`` is the name it is offered under; ``hosts`` are entries as of an allow-list,
    within those it is offered for: the proxy puts the value in for these and for nobody else.
    """

    value_from: StrictStr
    hosts: list[StrictStr]


class NetworkConnection(Struct):
    """One connection a program asked the proxy for; of plain HTTP, one request.

    ``verdict`` is "allowed", "refused" (``reason`` says why) or "failed" (it was allowed and could
    not be reached, or broke). ``via`` is "connect", "http" or "https" (the last where the proxy
    read what went through, to put ``secrets`` in). ``bytes_up`` and ``bytes_down`` are what went to
    and came from ``address``. Without ``certain`` it may have been another execution of the VM:
    every one that it may have been has it. ``connections`` is more than 1 in the last entries of an
    execution that made very many: they stand for all that agree in host, port and verdict.
    """

    host: StrictStr
    port: U64
    via: StrictStr
    verdict: StrictStr
    reason: StrictStr | None = None
    address: StrictStr | None = None
    bytes_up: U64 = 0
    bytes_down: U64 = 0
    started_at: UtcTime
    duration_ms: U64 = 0
    secrets: list[StrictStr] = Field(default_factory=list)
    certain: StrictBool = True
    connections: U64 = 1
