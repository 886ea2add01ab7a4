"""Runs the Redis of Kubernetes' component as its pod would, and holds the agents of all samples against the systemd unit's.

usage: kubernetes.py HATCHERY
"""

import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

import yaml

HATCHERY = os.path.abspath(sys.argv[1])
DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"


def documents(path):
    return list(yaml.safe_load_all((DEPLOY / path).read_text(encoding="utf-8")))


# What an agent needs is the same everywhere, and what it needs not it does not have.
unit = (DEPLOY / "systemd" / "hatchery-agent.service").read_text(encoding="utf-8")
capabilities = {name.removeprefix("CAP_") for name in re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.M)[1].split()}
assert len(capabilities) == 6, capabilities
services = documents("docker/compose.yaml")[0]["services"]
for name in ("agent-1", "agent-2", "agent-3"):
    assert set(services[name]["cap_add"]) == capabilities, name
pod = documents("kubernetes/base/agent.yaml")[0]["spec"]["template"]["spec"]
context = pod["containers"][0]["securityContext"]
assert set(context["capabilities"]["add"]) == capabilities and context["capabilities"]["drop"] == ["ALL"]
assert pod["securityContext"]["runAsUser"] == 0 and "fsGroup" not in pod["securityContext"]
for path in ("kubernetes/base/agent.yaml", "kubernetes/simulated/agent.yaml"):
    arguments = documents(path)[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in arguments[1:])
    first, last = map(int, flags["spawn-user"].split("-"))
    assert last - first + 1 == int(flags["slots"]), path
secrets = {v["name"]: v["secret"] for v in pod["volumes"] if "secret" in v}
assert secrets["registry"]["defaultMode"] == 0o400, "no server may read it"


# A pod has its own role's secrets: what a server that was taken over finds on its node is worth no more than the node.
def mounted(pod):
    return {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}


door = next(d for d in documents("kubernetes/base/frontdoor.yaml") if d["kind"] == "Deployment")["spec"]["template"]["spec"]
store = documents("kubernetes/redis/redis.yaml")[0]["spec"]["template"]["spec"]
assert mounted(pod) == {"hatchery-agent-registry", "hoops-license"}, mounted(pod)
assert {volume["name"] for volume in pod["volumes"]} == {"tls", "registry", "state", "tmp", "hoops", "models", "license"}
for one, other in ((pod, door), (door, store), (pod, store)):
    assert not mounted(one) & mounted(other), (mounted(one), mounted(other))
for one in (pod, door, store):
    assert one["automountServiceAccountToken"] is False
# Redis takes connections of front doors and of the nodes' network, and of no other pod.
policy = next(d for d in documents("kubernetes/redis/redis.yaml") if d["kind"] == "NetworkPolicy")["spec"]
assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "redis"} and policy["policyTypes"] == ["Ingress"]
(rule,) = policy["ingress"]
assert [next(iter(source)) for source in rule["from"]] == ["podSelector", "ipBlock"], rule
assert rule["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "frontdoor"}
assert [port["port"] for port in rule["ports"]] == ["redis"]

container = documents("kubernetes/redis/redis.yaml")[0]["spec"]["template"]["spec"]["containers"][0]
with tempfile.TemporaryDirectory() as scratch, socket.create_server(("127.0.0.1", 0)) as probe:
    port = str(probe.getsockname()[1])
    probe.close()
    subprocess.run([HATCHERY, "certs", "new", "--dir", scratch, "--redis", "redis=127.0.0.1"], check=True, capture_output=True)
    for ours, theirs in (("ca.pem", "ca.crt"), ("redis.pem", "tls.crt"), ("redis.key", "tls.key")):
        os.rename(f"{scratch}/{ours}", f"{scratch}/{theirs}")
    (pathlib.Path(scratch) / "users.acl").write_text((DEPLOY / "redis" / "users.acl").read_text(encoding="utf-8"), encoding="utf-8")
    arguments = [a.replace("/etc/redis/hatchery", scratch).replace("6379", port) for a in container["args"]]
    ready = [a.replace("/etc/redis/hatchery", scratch).replace("redis-cli", f"redis-cli -p {port}")
             for a in container["readinessProbe"]["exec"]["command"]]
    redis = subprocess.Popen([*arguments, "--bind", "127.0.0.1"], cwd=scratch, stdout=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 15
        while subprocess.run(ready).returncode != 0:
            assert redis.poll() is None, redis.stdout.read()
            assert time.monotonic() < end, "its readiness probe says no"
            time.sleep(0.1)
        plain = subprocess.run(["redis-cli", "-p", port, "PING"], capture_output=True, text=True, timeout=10)
        assert "PONG" not in plain.stdout and "NOAUTH" not in plain.stdout + plain.stderr, plain
        agent = subprocess.run(
            ["redis-cli", "-p", port, "--tls", "--cacert", f"{scratch}/ca.crt", "--user", "agent", "--pass", "CHANGE-agent-password",
             "--no-auth-warning", "PING"], capture_output=True, text=True, timeout=10)
        assert agent.stdout.strip() == "PONG", agent
    finally:
        redis.kill()
        redis.wait()
