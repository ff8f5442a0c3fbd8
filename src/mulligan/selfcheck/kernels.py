"""Questions that make no sense of a kernel that is the VM's own, by driver, and why.

They are not tried there, and said not to be: neither a pass nor a failure would mean anything.
"""

_NUMBERS = "users are the VM's own kernel's there; namespaces.around_users asks on the host"

OF_KERNELS: dict[str, dict[str, str]] = {
    "gvisor": {
        "namespaces.uid_map": _NUMBERS,
        "namespaces.gid_map": _NUMBERS,
        "namespaces.setgroups": _NUMBERS,
        "namespaces.nodev": (
            "gVisor has no nodev: its devices are its own, and no program can make one "
            "(namespaces.device)"
        ),
        "runtime.oom_immunity": (
            "gVisor ends nothing for want of memory, and keeps the number without looking at it; "
            "resources.memory shows who is ended"
        ),
    },
}
