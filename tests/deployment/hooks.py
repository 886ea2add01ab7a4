"""Runs the hooks of the Kubernetes agent, as they stand in its manifest, against a farm.

usage: hooks.py HATCHERY
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import yaml

HATCHERY = os.path.abspath(sys.argv[1])
MANIFEST = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "base" / "agent.yaml"

pod = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]["template"]["spec"]
first, agent = pod["initContainers"][0], pod["containers"][0]
UNDO = first["command"] + first["args"]
STOP = agent["lifecycle"]["preStop"]["exec"]["command"]

with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    address = "127.0.0.1:%d" % s.getsockname()[1]
environment = {
    "PATH": os.path.dirname(HATCHERY) + ":" + os.environ["PATH"],
    "HATCHERY_SERVER": f"http://{address}",
    "HATCHERY_NODE": "node-a",
}


def run(*command, **variables):
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=30)


def eligibility():
    return json.loads(run("hatchery", "--json", "nodes", "node-a").stdout)["eligibility"]


def expect(what, found, wanted):
    if found != wanted:
        raise SystemExit(f"{what}: {found!r}, not {wanted!r}")


expect("an undo without a front door", run(*UNDO).returncode, 1)
farm = subprocess.Popen([HATCHERY, "dev", "--listen", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    end = time.monotonic() + 15
    while run("hatchery", "nodes", "node-a").returncode and time.monotonic() < end:
        time.sleep(0.1)
    expect("an undo of a node that is new", run(*UNDO, HATCHERY_NODE="nobody").returncode, 0)
    expect("an undo of nothing", (run(*UNDO).returncode, eligibility()), (0, "eligible"))
    expect("a stop", (run(*STOP).returncode, eligibility()), (0, "draining"))
    expect("an undo of it", (run(*UNDO).returncode, eligibility()), (0, "eligible"))
    run("hatchery", "cordon", "node-a")
    expect("an undo of an operator's cordon", (run(*UNDO).returncode, eligibility()), (0, "cordoned"))
    run("hatchery", "drain", "node-a", "--reason", "kernel")
    expect("an undo of an operator's drain", (run(*UNDO).returncode, eligibility()), (0, "draining"))
finally:
    farm.terminate()
    farm.wait()
