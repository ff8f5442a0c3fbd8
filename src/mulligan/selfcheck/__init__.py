"""``mulligan selfcheck``: what a program in a VM can reach of its host, tried from inside.

Probes of ``inside`` are programs: they run in a VM, and, as a control, outside of one. Those of
``answers`` are looked at from the host's side. ``planted`` is the secret that all look for, and
``run`` puts it together.
"""
