"""What VMs of a driver cannot have, by its nature, of what the conformance suite asks of all.

Everything else is held to be the same. Why it cannot be is in docs/decisions.
"""

HARD_LINKS = "hard links"
SEEN = "processes that are the host's"
LANDLOCK = "Landlock"
NOBODY = "user nobody, in the place of the host's root"
LACKS: dict[str, dict[str, str]] = {
    "bubblewrap": {},
    "gvisor": {
        SEEN: "those of a VM with a kernel of its own are not",
        LANDLOCK: "its kernel has none",
        NOBODY: "it shows what is root's as root's, though nobody there can be root",
    },
    "qemu": {
        SEEN: "those of a VM with a kernel of its own are not",
        HARD_LINKS: "an overlay whose files virtiofs shows cannot have them (decision 12)",
    },
}
