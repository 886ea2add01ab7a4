#!/usr/bin/python3
"""A server that was taken over: tries what its targets say, writes a line for each attempt, and goes on as the simulator.

Beside it stand `targets.json` (without it, it is a server as any other) and `ts3d-sc-sim`. Lines are `# attempt: NAME: worked` and
`# attempt: NAME: failed: WHY`; names that begin with `own` are what a server may do, by the same means.
"""

import ctypes
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(sys.argv[0]).resolve().parent
ARGUMENTS = sys.argv[1:]


def argument(flag):
    return ARGUMENTS[ARGUMENTS.index(flag) + 1]


def attempt(name, action):
    try:
        action()
        print(f"# attempt: {name}: worked", flush=True)
    except Exception as error:  # Whatever keeps it from succeeding.
        print(f"# attempt: {name}: failed: {error!r}".replace("\n", " "), flush=True)


def read(path):
    with open(path, "rb") as file:
        return file.read(1 << 16)


def open_memory(pid):
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))


def attach(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    # PTRACE_ATTACH, and PTRACE_DETACH.
    if libc.ptrace(16, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    libc.ptrace(17, pid, None, None)


def report(base, spawn):
    request = urllib.request.Request(f"{base}/{spawn}?liveliness=ping", method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def redis(words, tls=True):
    """Redis' answer to commands of someone without a password; its refusals are errors."""
    with socket.create_connection(("127.0.0.1", targets["redis"]), timeout=10) as connection:
        if tls:
            context = ssl.create_default_context(cafile=targets["ca"])
            connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
        connection.sendall(words.encode() + b"\r\n")
        answer = connection.recv(4096)
        connection.close()
    if not answer or answer.startswith(b"-"):
        raise ConnectionError(answer)


def agents_door():
    """A call to the agent needs a certificate: a handshake alone says nothing, as the refusal comes after it."""
    context = ssl.create_default_context(cafile=targets["ca"])
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(socket.create_connection(("127.0.0.1", targets["grpc"]), timeout=10), server_hostname="127.0.0.1") as tls:
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        if not tls.recv(4096):
            raise ConnectionError("it hangs up")


def start_an_agent():
    """An agent of the farm, with what could be found."""
    places = targets["intruder"]
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    for line in b"\n".join(found.get(name, b"") for name in ("agent.env", "environ")).replace(b"\0", b"\n").decode().splitlines():
        if "=" in line and not line.startswith("#"):
            environment.update([line.split("=", 1)])
    scratch = tempfile.mkdtemp(prefix="intruder-")
    environment |= {
        "HATCHERY_REGISTRY": targets["registry"], "HATCHERY_NODE": "intruder", "HATCHERY_STATE_DIR": scratch,
        "HATCHERY_EXECUTABLE": "/bin/true", "HATCHERY_PORTS": places["ports"], "HATCHERY_SLOTS": "1", "HATCHERY_LISTEN": places["grpc"], "HATCHERY_ADMIN_LISTEN": places["admin"],
        "HATCHERY_LIVELINESS_LISTEN": places["liveliness"],
    }
    # The certificate names another node, whose agent would notice.
    for name in ("SPAWN_USER", "TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA"):
        environment.pop(f"HATCHERY_{name}", None)
    log = open(f"{scratch}/log", "w+b")
    process = subprocess.Popen([HERE / "hatchery", "agent"], env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if process.poll() is not None:
                raise RuntimeError(f"it exits with {process.returncode}")
            try:
                with urllib.request.urlopen(f"http://{places['admin']}/readyz", timeout=5) as answer:
                    state = json.load(answer)
            except OSError:
                state = {}
            # It starts, but is of the farm only where the registry takes its reports.
            if state.get("registry") == "up":
                return
            if "NOAUTH" in state.get("registryDetail", ""):
                raise RuntimeError("the registry refuses it")
            time.sleep(0.1)
        # Not to be taken for a refusal.
        print("# attempt: an agent that neither starts nor is refused: worked", flush=True)
    finally:
        process.kill()
        process.wait()
        log.close()
        shutil.rmtree(scratch)


def put(path):
    with open(path, "wb"):
        pass
    os.remove(path)


def keep(name, path):
    found[name] = read(path)


def attack():
    own, victim, agent = os.getpid(), targets["victim_pid"], targets["agent_pid"]
    attempt("own licence", lambda: read(argument("--license-file")))
    for name in ("environ", "cmdline"):
        attempt(f"own {name}", lambda name=name: read(f"/proc/{own}/{name}"))
        attempt(f"another spawn's {name}", lambda name=name: read(f"/proc/{victim}/{name}"))
    attempt("own memory", lambda: open_memory(own))
    attempt("another spawn's memory", lambda: open_memory(victim))
    attempt("the agent's memory", lambda: open_memory(agent))
    attempt("the agent's environ", lambda: keep("environ", f"/proc/{agent}/environ"))
    child = subprocess.Popen(["/bin/sleep", "60"])
    # The unit lets nobody do this, not even to its own.
    attempt("another spawn, attached to", lambda: attach(victim))
    for name, pid in (("own process", child.pid), ("another spawn", victim), ("the agent", agent)):
        attempt(f"{name}, signalled", lambda pid=pid: os.kill(pid, 0))
    child.kill()
    child.wait()
    attempt("another spawn's output", lambda: read(targets["victim_output"]))
    attempt("another spawn's output, changed", lambda: open(targets["victim_output"], "ab").close())
    for name in ("agent.env", "agent-redis-password", "frontdoor-redis-password", "n.key", "door.key"):
        attempt(name, lambda name=name: keep(name, targets["secrets"][name]))
    state = targets["state"]
    attempt("the state directory", lambda: os.listdir(state))
    attempt("the state directory's records", lambda: read(f"{state}/spawns"))
    attempt("the state directory, changed", lambda: put(f"{state}/intruder"))
    attempt("own file", lambda: put(f"/tmp/intruder-{own}.file"))
    endpoint, identity = argument("--liveliness-endpoint"), argument("--id")
    plain = "/".join(endpoint.split("/")[:3]) + "/liveliness"
    attempt("own report", lambda: report(endpoint, identity))
    attempt("a report for another spawn", lambda: report(plain, targets["victim"]))
    attempt("a report for another spawn with its own secret", lambda: report(endpoint, targets["victim"]))
    attempt("own connection to Redis", lambda: socket.create_connection(("127.0.0.1", targets["redis"]), timeout=10).close())
    attempt("Redis without a password", lambda: redis("PING"))
    attempt("Redis with a guess", lambda: redis("AUTH agent agent"))
    attempt("Redis without TLS", lambda: redis("PING", tls=False))
    attempt("the agent without a certificate", agents_door)
    attempt("an agent of its own", start_an_agent)
    # As root, if it were: what it may not become.
    attempt("another user", lambda: os.setuid(targets["victim_uid"]))


file = HERE / "targets.json"
if file.exists():
    targets, found = json.loads(file.read_text(encoding="utf-8")), {}
    attack()
    print("# attempts: done", flush=True)
simulator = HERE / "ts3d-sc-sim"
os.execv(simulator, [str(simulator), *ARGUMENTS])
