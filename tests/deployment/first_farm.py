"""Runs the commands of docs/operator/first-farm.md as they are written, on its addresses, in a network of their own.

Both machines are this one: a directory for each, with the files that the comments name. Only what is not here differs: the licensed
server is the simulator. Exits with 77 where there is no such network.

usage: first_farm.py HATCHERY TS3D-SC-SIM
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HATCHERY, SIMULATOR = (os.path.abspath(path) for path in sys.argv[1:3])
INSIDE = "FIRST_FARM_INSIDE"

if INSIDE not in os.environ:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True).returncode != 0:
        print("no network namespace can be made here")
        sys.exit(77)
    sys.exit(subprocess.run(["unshare", "--net", sys.executable, *sys.argv], env=os.environ | {INSIDE: "1"}).returncode)
for words in ("link set lo up", "address add 10.0.0.5/32 dev lo", "address add 10.0.0.6/32 dev lo"):
    subprocess.run(["ip", *words.split()], check=True)

text = (ROOT / "docs/operator/first-farm.md").read_text(encoding="utf-8")
block = re.search(r"^```sh\n(.*?)^```", text, re.M | re.S)[1]
making, first, second, caller = re.split(r"\n\n", block.strip())
scratch = pathlib.Path(tempfile.mkdtemp(prefix="hatchery-first-farm-"))
scratch.chmod(0o755)
processes = []


def here(commands, machine):
    """The commands, with paths of machines that are directories below this one."""
    root = scratch / machine
    for place in ("/etc/redis/hatchery", "/etc/hoops", "/opt/hoops", "/srv/models"):
        commands = commands.replace(place, f"{root}{place}")
    return commands


def run(commands, machine, **more):
    directory = scratch / machine
    environment = {"PATH": f"{scratch}/bin:{os.environ['PATH']}", "HOME": str(directory)}
    shell = ["bash", "-euc", here(commands, machine)]
    return subprocess.run(shell, cwd=directory, env=environment, check=True, text=True, timeout=60, **more)


def start(command, machine, name):
    directory = scratch / machine
    log = open(scratch / f"{name}.log", "w+b")
    environment = {"PATH": f"{scratch}/bin:{os.environ['PATH']}", "HOME": str(directory)}
    command = "exec " + here(re.sub(r"^#.*\n", "", command, flags=re.M).strip(), machine).removesuffix(" &")
    processes.append(subprocess.Popen(["bash", "-euc", command], cwd=directory, env=environment, stdout=log, stderr=log))


def put(names, origin, to):
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        source = next(path for path in (origin / name, origin / "certs" / name) if path.exists())
        if source != to / name:
            shutil.copy2(source, to / name)


def fail(why):
    for log in sorted(scratch.glob("*.log")):
        print(log.name, log.read_text(encoding="utf-8", errors="replace")[-3000:], sep="\n")
    sys.exit(why)


try:
    (scratch / "bin").mkdir()
    (scratch / "bin" / "hatchery").symlink_to(HATCHERY)
    for machine in ("any", "10.0.0.5", "10.0.0.6"):
        (scratch / machine).mkdir()
    # The sample of Redis, which says where it looks for its files.
    for machine in ("any", "10.0.0.5"):
        shutil.copytree(ROOT / "deploy" / "redis", scratch / machine / "deploy" / "redis")
    config = scratch / "10.0.0.5" / "deploy" / "redis" / "redis.conf"
    config.write_text(here(config.read_text(encoding="utf-8"), "10.0.0.5"), encoding="utf-8")
    key = run(making, "any", stdout=subprocess.PIPE).stdout
    token = re.search(r"hatchery_\S+", key)[0]

    redis, door = first.split("# and here")
    files = re.findall(r"\b(?:[\w-]+\.(?:pem|key|acl)|\w+-password|keys)\b", redis.splitlines()[0])
    put(files, scratch / "any", scratch / "10.0.0.5" / "etc/redis/hatchery")
    files = re.findall(r"\b(?:[\w-]+\.(?:pem|key)|\w+-password|keys)\b", door.splitlines()[0])
    put(files, scratch / "any", scratch / "10.0.0.5")
    start(redis, "10.0.0.5", "redis")
    start(f"# {door}", "10.0.0.5", "door")

    machine = scratch / "10.0.0.6"
    put(re.findall(r"\b(?:[\w-]+\.(?:pem|key)|\w+-password)\b", second.splitlines()[0]), scratch / "any", machine)
    server = machine / "opt/hoops/server/bin/linux64/ts3d_sc_server"
    for directory in (server.parent, machine / "etc/hoops", machine / "srv/models"):
        directory.mkdir(parents=True)
    shutil.copy(SIMULATOR, server)
    (machine / "etc/hoops/license").write_text("licence\n", encoding="utf-8")
    # Where the default is below /var/lib, which is the machine's.
    start(second + f" --state-dir {machine}/state", "10.0.0.6", "agent")

    put(["ca.pem"], scratch / "any", scratch / "any")
    end = time.monotonic() + 30
    while True:
        try:
            spawned = run(caller.replace("hatchery_…", token), "any", capture_output=True)
            break
        except subprocess.CalledProcessError as error:
            if time.monotonic() > end or any(process.poll() is not None for process in processes):
                fail(f"nothing is spawned: {error.stderr}")
            time.sleep(0.2)
    pid = subprocess.run(["pgrep", "-f", f"^{server} "], capture_output=True, text=True, check=True).stdout.split()[0]
    uid = os.stat(f"/proc/{pid}").st_uid
    if not 20_000 <= uid <= 20_031:
        fail(f"the server runs as {uid}")
    print(spawned.stdout)
finally:
    for process in reversed(processes):
        process.terminate()
        process.wait()
    # The agent leaves its servers running.
    left = subprocess.run(["pgrep", "-f", f"^{scratch}/10.0.0.6/opt/hoops/"], capture_output=True, text=True).stdout
    for pid in map(int, left.split()):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(scratch)
