"""Runs what Compose's first container runs, twice, and holds what each role is given against what it needs.

usage: secrets.py HATCHERY
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

import yaml

HATCHERY = os.path.abspath(sys.argv[1])
COMPOSE = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "docker" / "compose.yaml"
services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
maker = services["secrets"]

# What each volume holds, and nothing else. Only the first container mounts `ca`.
WANTED = {
    "redis": {"ca.pem", "redis.pem", "redis.key", "users.acl"},
    "frontdoor": {"ca.pem", "frontdoor.pem", "frontdoor.key", "redis-password", "api-keys"},
    "operator": {"ca.pem", "token"},
    "load-balancer": {"ca.pem"},
} | {f"agent-{n}": {"ca.pem", "agent.pem", "agent.key", "redis-password"} for n in "123"}

with tempfile.TemporaryDirectory() as scratch:
    root = pathlib.Path(scratch) / "secrets"
    for mount in maker["volumes"]:
        volume, place = mount.split(":")[:2]
        if place == "/users.acl":
            users = (COMPOSE.parent / volume).resolve()
            continue
        assert place.startswith("/secrets/"), mount
        assert volume.removesuffix("-secrets") == place.removeprefix("/secrets/"), mount
        (root / place.removeprefix("/secrets/")).mkdir(parents=True)
    program = pathlib.Path(scratch) / "bin"
    program.mkdir()
    (program / "hatchery").symlink_to(HATCHERY)
    script = maker["command"][0].replace("$$", "$").replace("/secrets", str(root)).replace("/users.acl; }", f"{users}; }}")
    environment = {"PATH": f"{program}:{os.environ['PATH']}"}
    contents = []
    for _ in range(2):
        subprocess.run([*maker["entrypoint"], script], env=environment, check=True, timeout=60)
        contents.append({file.relative_to(root): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()})
    assert contents[0] == contents[1], "a second start changes nothing"
    for role, wanted in WANTED.items():
        found = {file.name for file in (root / role).iterdir()}
        assert found == wanted, f"{role} has {sorted(found)}, and needs {sorted(wanted)}"
        for file in (root / role).iterdir():
            mode = file.stat().st_mode & 0o777
            assert file.name == "ca.pem" or mode & 0o077 == 0, f"{file} has mode {mode:o}"
    password = {role: (root / role / "redis-password").read_text().strip() for role in WANTED if "redis-password" in WANTED[role]}
    assert password["agent-1"] == password["agent-2"] == password["agent-3"] != password["frontdoor"], "one for each role"
    acl = (root / "redis" / "users.acl").read_text()
    for user in ("frontdoor", "agent"):
        words = next(line for line in acl.splitlines() if line.startswith(f"user {user} ")).split()
        secret = password["frontdoor" if user == "frontdoor" else "agent-1"]
        assert "#" + hashlib.sha256(secret.encode()).hexdigest() in words, f"{user} has another password than its role"
        assert len(secret) >= 32 and secret not in acl and not any(word.startswith(">") for word in words), "hashes only"
    certificates = [(root / f"agent-{n}" / "agent.pem").read_bytes() for n in "123"]
    assert len(set(certificates)) == 3, "each agent has a certificate of its own"

# Servers are strangers to their agents.
for name, service in services.items():
    if name.startswith("agent"):
        slots, spawn_users = (service["environment"][f"HATCHERY_{key}"] for key in ("SLOTS", "SPAWN_USER"))
        first, last = map(int, spawn_users.split("-"))
        assert last - first + 1 == int(slots), f"{name} has users for each of its slots"
        assert service["user"] == "0:0" and service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
    elif name != "load-balancer":
        assert service.get("user", "10001:10001") == "10001:10001" and "cap_add" not in service, name

# Nobody mounts another role's volume.
for name, service in services.items():
    if name == "secrets":
        continue
    mounted = {volume.split(":")[0] for volume in service.get("volumes", []) if volume.split(":")[0].endswith("secrets")}
    role = "frontdoor" if name.startswith("frontdoor") else name
    assert mounted <= {f"{role}-secrets"}, f"{name} mounts {sorted(mounted)}"
    assert not any(volume.startswith("ca:") for volume in service.get("volumes", [])), f"{name} has the CA's key"
