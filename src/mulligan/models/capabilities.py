"""What VMs of a driver can and cannot do."""

from __future__ import annotations

from pydantic import StrictBool, StrictStr

from mulligan.models.base import Struct


class VmCapabilities(Struct):
    """What a VM's driver gives it.

    ``own_kernel``: it has a kernel of its own, not the host's. ``network``: the modes it offers.
    ``memory``: whose memory is kept by snapshots and taken back by rollbacks, "none", "kernels"
    (live interpreters between cells) or "all" (every process); ``memory_across_fork`` and
    ``memory_across_restart``: whether it also crosses into forks, and outlives the server.
    ``boot_cost`` and ``snapshot_cost``: "milliseconds" or "seconds".
    """

    own_kernel: StrictBool
    network: list[StrictStr]
    memory: StrictStr
    memory_across_fork: StrictBool
    memory_across_restart: StrictBool
    boot_cost: StrictStr
    snapshot_cost: StrictStr
