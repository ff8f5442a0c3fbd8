"""Mulligan runs the code language models write, each agent in an isolated VM of its own.

::

    from mulligan import SyncVmExecutionClient, VmExecutionConfig, HistoryConfig

    config = VmExecutionConfig(history=HistoryConfig(integration_mode="direct"))
    with SyncVmExecutionClient(config) as client:
        print(client.execute_python("me", "print(6 * 7)").stdout)
"""

from mulligan.client.client import VmExecutionClient
from mulligan.client.sync import SyncVmExecutionClient
from mulligan.errors import VmExecutionError
from mulligan.models import (
    HistoryConfig,
    VmExecuteRequest,
    VmExecuteResponse,
    VmExecutionConfig,
    VmInstance,
)
from mulligan.version import __version__

__all__ = [
    "HistoryConfig",
    "SyncVmExecutionClient",
    "VmExecuteRequest",
    "VmExecuteResponse",
    "VmExecutionClient",
    "VmExecutionConfig",
    "VmExecutionError",
    "VmInstance",
    "__version__",
]
