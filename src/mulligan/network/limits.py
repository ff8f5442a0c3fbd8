"""What a VM's connections are held to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one VM; sizes in bytes, times in seconds.

    Attributes:
        connections: open at a time.
        new_per_second: connections taken a second on the average, and at once; the others wait.
        header_bytes: of a request's or an answer's head.
        header_seconds: a head, or a TLS handshake, has to be there by then.
        idle_seconds: a connection on which nothing moves is closed.
        connect_seconds, resolve_seconds: given to other machines to answer.
        bytes_per_second: up and down together; 0: any.
        total_bytes: up and down together until the VM is stopped; 0: any.
    """

    connections: int = 256
    new_per_second: int = 200
    header_bytes: int = 64 * 1024
    header_seconds: float = 10.0
    idle_seconds: float = 300.0
    connect_seconds: float = 10.0
    resolve_seconds: float = 5.0
    bytes_per_second: int = 0
    total_bytes: int = 0
