"""How many descriptors a server may have open: each client that listens takes one."""

from __future__ import annotations

import resource

from mulligan.log import get_logger

log = get_logger()

FEW = 4096


def raise_limit() -> int:
    """Raises this process's limit as far as it may; what it is then.

    The usual 1024 is there for programs that use ``select``, which this one does not. What VMs'
    programs may open their types say.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most < FEW:
        log.warning(
            "few_descriptors",
            limit=most,
            remedy="raise the hard limit of open files (ulimit -Hn, LimitNOFILE= of systemd)",
        )
    return most
