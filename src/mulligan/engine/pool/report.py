"""What an agent is told of its VMs, and of spare ones it could have."""

from __future__ import annotations

from mulligan.engine.pool.spares import Spares
from mulligan.models import VmExecutionConfig, VmInstance, VmPoolResponse
from mulligan.settings import Settings


def pool_of(
    agent_id: str, vms: list[VmInstance], spares: Spares, settings: Settings
) -> VmPoolResponse:
    """An agent's VMs, those that run something apart from the others, and spare ones."""
    busy = [vm for vm in vms if vm.status == "running"]
    given = {
        name: getattr(settings, name)
        for name in VmExecutionConfig.model_fields
        if name in type(settings).model_fields and name != "history"
    }
    return VmPoolResponse(
        agent_id=agent_id,
        available_vms=[vm for vm in vms if vm not in busy],
        in_use_vms=busy,
        pool_config=VmExecutionConfig(enabled=True, **given),
        spare_vms=spares.ready(settings.default_vm_type, agent_id),
        shared_vms=spares.ready(settings.default_vm_type, None),
    )
