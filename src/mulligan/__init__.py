"""Mulligan runs the code language models write, each agent in an isolated VM of its own.

::

    from mulligan import Vm

    with Vm("me") as vm:
        print(vm.run("print(6 * 7)").stdout)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mulligan.version import __version__

if TYPE_CHECKING:
    from mulligan.client.client import VmExecutionClient
    from mulligan.client.sync import SyncVmExecutionClient
    from mulligan.client.sync_vm import Vm
    from mulligan.client.vm import AsyncVm
    from mulligan.errors import VmExecutionError
    from mulligan.models import (
        ExecutionEvent,
        HistoryConfig,
        VmExecuteRequest,
        VmExecuteResponse,
        VmExecutionConfig,
        VmInstance,
    )

__all__ = [
    "AsyncVm",
    "ExecutionEvent",
    "HistoryConfig",
    "SyncVmExecutionClient",
    "Vm",
    "VmExecuteRequest",
    "VmExecuteResponse",
    "VmExecutionClient",
    "VmExecutionConfig",
    "VmExecutionError",
    "VmInstance",
    "__version__",
]

# Where names come from that are imported when they are used: the command line, and every VM's
# agent, import this package and have no use for clients.
_HOMES = {
    "AsyncVm": "mulligan.client.vm",
    "SyncVmExecutionClient": "mulligan.client.sync",
    "Vm": "mulligan.client.sync_vm",
    "VmExecutionClient": "mulligan.client.client",
    "VmExecutionError": "mulligan.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "mulligan.models")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
