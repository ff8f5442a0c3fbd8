"""``mulligan selfcheck``: what a program in a VM can reach of its host, tried from inside.

Probes of ``inside`` are programs: they run in a VM, and, as a control, outside of one. Those of
``answers`` look at what comes back to the host. ``planted`` is the secret that all of them look for.
"""
