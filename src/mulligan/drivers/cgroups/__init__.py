"""Limits the kernel holds for a VM as a whole: control groups, of both versions."""

from mulligan.drivers.cgroups.groups import Cgroups, VmGroups

__all__ = ["Cgroups", "VmGroups"]
