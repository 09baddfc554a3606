"""Ports of this machine for the embedded broker."""

from __future__ import annotations

import random
import socket

from services.local.broker_settings import HOST

# Below the range from which the kernel takes ports for outgoing connections, so that a kept port is still free later.
PORTS = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether nobody listens there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port(but: int = 0) -> int | None:
    """Give a free port other than `but`; None when none is found."""
    choose = random.SystemRandom()
    tries = (choose.choice(PORTS) for _ in range(200))
    return next((port for port in tries if port != but and is_free(port)), None)
