"""Mulligan runs the code language models write, each agent in an isolated VM of its own.

::

    from mulligan import Vm

    with Vm("me") as vm:
        print(vm.run("print(6 * 7)").stdout)
"""

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
from mulligan.version import __version__

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
