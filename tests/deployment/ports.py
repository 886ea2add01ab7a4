"""Ports that no other program takes in the meantime: below those that the kernel hands out by itself, and each of them once.

usage: ports.py COUNT [RUN]    prints COUNT of them, and then the first of RUN that follow each other
"""

import os
import socket
import sys

# Beside those of tests/harness/ports.rs, which begin at 20000. Browsers refuse none of them.
_FIRST, _END = 12_000, 20_000
# Programs begin at different places, so that they seldom meet.
_next = _FIRST + os.getpid() * 97 % (_END - _FIRST)


def _is_free(port):
    with socket.socket() as probe:
        # A connection that has just ended there does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def free_ports(count):
    """The first of `count` ports that follow each other and that nothing is bound to."""
    global _next
    for _ in range(2 * (_END - _FIRST)):
        first, _next = (_next, _next + count) if _next + count <= _END else (_FIRST, _FIRST + count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise SystemExit(f"no {count} ports in a row are free from {_FIRST} to {_END - 1}")


def free_port():
    return free_ports(1)


if __name__ == "__main__":
    found = [free_port() for _ in range(int(sys.argv[1]))]
    print(*found, *(free_ports(int(run)) for run in sys.argv[2:3]))
