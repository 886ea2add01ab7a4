"""Loads the firewall of a node in a network namespace, and sees who reaches what from namespaces around it.

usage: firewall.py RULES; exits with 77 where namespaces or nft are not to be had
"""

import os
import subprocess
import sys
import time

RULES = sys.argv[1]
PREFIX = f"firewall-{os.getpid()}"
# The addresses are those of the sample.
HOSTS = {"node": "10.0.0.6", "frontdoor": "10.0.0.5", "relay": "10.0.0.7", "prometheus": "10.0.0.9", "stranger": "10.0.0.66"}
PORTS = {"agent": 7070, "admin": 9070, "first": 55000, "last": 55999, "other": 22}
# The first and the last of the sample.
SPAWN_USERS = [20000, 20031]
LISTEN = """
import socket, sys
servers = [socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True) for port in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.read()
"""
CONNECT = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
"""


def run(*words, check=True):
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return done


def inside(host, *words):
    return ["ip", "netns", "exec", f"{PREFIX}-{host}", *words]


def reaches(host, port, address=HOSTS["node"]):
    return run(*inside(host, sys.executable, "-c", CONNECT, address, str(port)), check=False).returncode == 0


def spawn_reaches(user, port):
    """Whether a process of this user on the node connects to the node's own port."""
    as_user = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]
    addresses = ["127.0.0.1", "::1", HOSTS["node"]]
    return any(run(*inside("node", *as_user, sys.executable, "-c", CONNECT, address, str(port)), check=False).returncode == 0
               for address in addresses)


def main():
    switch = f"{PREFIX}-switch"
    if run("ip", "netns", "add", switch, check=False).returncode != 0:
        print("network namespaces cannot be made here")
        sys.exit(77)
    made, server = [switch], None
    try:
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for number, (host, address) in enumerate(HOSTS.items()):
            name = f"{PREFIX}-{host}"
            run("ip", "netns", "add", name)
            made.append(name)
            run("ip", "-n", name, "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"p{number}", "netns", switch)
            run("ip", "-n", switch, "link", "set", f"p{number}", "master", "bridge", "up")
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "addr", "add", f"fd00::{number + 1}/64", "dev", "eth0", "nodad")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        server = subprocess.Popen(inside("node", sys.executable, "-c", LISTEN, *(str(port) for port in PORTS.values())),
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "ready\n"
        end = time.monotonic() + 10
        while not (reaches("stranger", 55000) and reaches("stranger", 55000, "fd00::1")):
            assert time.monotonic() < end, "without rules all reach a server"
            time.sleep(0.1)
        assert spawn_reaches(SPAWN_USERS[0], PORTS["first"]), "without rules a server reaches another"
        # Twice: it replaces itself.
        for _ in range(2):
            run(*inside("node", "nft", "-f", RULES))
        agent, admin, first, last, other = PORTS.values()
        wanted = {
            "frontdoor": {agent, first, last, other},
            "relay": {agent, first, last, other},
            "prometheus": {admin, other},
            "stranger": {other},
            "node": set(PORTS.values()),
        }
        for host, ports in wanted.items():
            for port in PORTS.values():
                assert reaches(host, port) == (port in ports), f"{host} {'does not reach' if port in ports else 'reaches'} {port}"
        assert reaches("stranger", other, "fd00::1") and not reaches("stranger", first, "fd00::1"), "by IPv6"
        for user in SPAWN_USERS:
            for port in PORTS.values():
                assert spawn_reaches(user, port) == (port == other), f"user {user} and port {port}"
        assert spawn_reaches(SPAWN_USERS[-1] + 1, first), "others of the node do"
    finally:
        if server:
            server.kill()
            server.wait()
        for name in made:
            run("ip", "netns", "del", name, check=False)


main()
