"""Runs the blocks of deploy/README.md and docs/operator/first-farm.md on bare Debians that systemd has booted, each block on the machine that it
is for.

usage: guides.py CACHE DEBIAN-RELEASE HATCHERY TS3D-SC-SIM; says `skipped: guides: …` and exits with 77 where no such machine can be made
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(sys.argv[1])
RELEASE = sys.argv[2]
HATCHERY, SIMULATOR = (pathlib.Path(path).resolve() for path in sys.argv[3:5])
PREFIX = f"guides-{os.getpid()}"
SERVER = "/opt/hoops/server/bin/linux64/ts3d_sc_server"

text = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
first_farm_text = (ROOT / "docs/operator/first-farm.md").read_text(encoding="utf-8")


def block(after):
    """The first block of commands after these words."""
    at = text.find(after)
    if at < 0:
        sys.exit(f"deploy/README.md has no {after!r}")
    return re.search(r"^```sh\n(.*?)^```", text[at:], re.M | re.S)[1]


def skipped(why):
    print(f"skipped: guides: {why}")
    sys.exit(77)


def run(*words, check=True, **more):
    done = subprocess.run(words, capture_output=True, text=True, **more)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


# --- the machines ------------------------------------------------------------------------------------------------------------

BOOT = r"""
set -e
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=@LOWER@,upperdir=@DIR@/upper,workdir=@DIR@/work @DIR@/merged
cd @DIR@/merged
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm && mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts && ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
touch dev/console && mount --bind @DIR@/log dev/console
mount -t proc proc proc
# Nothing of the kernel is this guest's to set, but for its network.
mkdir run/net && mount --bind proc/sys/net run/net
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount --bind run/net proc/sys/net && umount run/net
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p run/old && pivot_root . run/old && cd /
umount -l /run/old
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=lxc /lib/systemd/systemd --system --show-status=no \
    --log-target=console
"""


class Machine:
    """A Debian of its own, booted where it has an address."""

    def __init__(self, name, lower, address, group):
        self.name, self.address, self.group = name, address, group
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"guides-{name}-", dir=CACHE))
        for part in ("upper", "work", "merged"):
            (self.dir / part).mkdir()
        (self.dir / "log").touch()
        self.namespace = f"{PREFIX}-{name}"
        self.manager = self.first = None
        script = self.dir / "boot"
        script.write_text(BOOT.replace("@LOWER@", ":".join(map(str, lower))).replace("@DIR@", str(self.dir)), encoding="utf-8")
        group.mkdir()

    def path(self, inside):
        """A file of the machine, as this one sees it."""
        return pathlib.Path(f"/proc/{self.first}/root{inside}")

    def home(self):
        return self.path("/root")

    def start(self, number, switch):
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "add", "eth0", "netns", self.namespace, "type", "veth", "peer", "name", f"p{number}", "netns", switch)
        run("ip", "-n", switch, "link", "set", f"p{number}", "master", "bridge", "up")
        run("ip", "-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            run("ip", "-n", self.namespace, "link", "set", link, "up")
        words = f"set -e; echo 0 > {self.group}/cgroup.procs; exec unshare --cgroup sh {self.dir}/boot"
        self.manager = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", words],
            stdout=open(self.dir / "log", "ab"),
            stderr=subprocess.STDOUT,
        )

    def booted(self, limit=60):
        end = time.monotonic() + limit
        while time.monotonic() < end and self.manager.poll() is None:
            children = run("pgrep", "-P", str(self.manager.pid), check=False).stdout.split()
            if children:
                self.first = children[0]
                state = self.inside("systemctl", "is-system-running", check=False)
                if state.stdout.strip() in ("running", "degraded"):
                    return True
            time.sleep(0.2)
        return False

    def inside(self, *words, check=True, **more):
        enter = ["nsenter", "-t", self.first, "-m", "-p", "-n", "-C", "-i", "-u"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return run(*enter, "env", "-i", path, "HOME=/root", "DEBIAN_FRONTEND=noninteractive", *words, check=check, **more)

    def does(self, commands, environment=""):
        """Runs a block line by line as it is written, in root's home; a line that fails ends it."""
        print(f"# {self.name}")
        script = f"set -euo pipefail\ncd /root\n{environment}\n{commands}"
        done = self.inside("bash", "-c", script, check=False, timeout=120)
        if done.returncode != 0:
            raise Failed(f"{self.name}: exit {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}\nof\n{commands}")
        return done.stdout

    def stays(self, name, commands):
        """Runs a command that does not end, as a shell of root would; with the comments that are before it left out."""
        command = re.sub(r"^#.*\n", "", commands, flags=re.M).strip().removesuffix("&")
        print(f"# {self.name}: {name}")
        self.inside("systemd-run", "--quiet", f"--unit={name}", "--working-directory=/root", "bash", "-euc", f"exec {command}")

    def put(self, origin, names, to="."):
        """Copies files into root's home, as an operator would bring them there."""
        for name in names:
            source = origin / name
            target = self.home() / to / pathlib.Path(name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    def journal(self):
        said = self.inside("journalctl", "--no-pager", "-n", "60", "-o", "cat", check=False).stdout if self.first else ""
        return f"--- {self.name}\n{self.dir.joinpath('log').read_text(errors='replace')[-1500:]}\n{said[-6000:]}"

    def end(self):
        if self.manager:
            self.manager.kill()
            self.manager.wait()
        run("ip", "netns", "del", self.namespace, check=False)
        for _ in range(50):
            for group in sorted(self.group.rglob("*"), reverse=True):
                if group.is_dir():
                    try:
                        group.rmdir()
                    except OSError:
                        pass
            try:
                self.group.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.1)
        shutil.rmtree(self.dir, ignore_errors=True)


class Failed(Exception):
    pass


def debian():
    """A bare Debian, made once."""
    base = CACHE / f"debian-{RELEASE}"
    if not base.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = pathlib.Path(tempfile.mkdtemp(prefix="making-", dir=CACHE))
        made = run("debootstrap", RELEASE, str(making), check=False)
        if made.returncode != 0:
            shutil.rmtree(making)
            skipped(f"debootstrap: {made.stdout.strip().splitlines()[-1:]}{made.stderr[-300:]}")
        # Limits of the kernel are the host's, and a guest may not set them.
        for directory in ("usr/lib/sysctl.d", "etc/sysctl.d"):
            for path in (making / directory).glob("*.conf"):
                path.unlink()
        (making / "etc/sysctl.conf").write_text("", encoding="utf-8")
        making.chmod(0o755)
        making.rename(base)
    return base


def with_packages(base, line):
    """The same with the packages of this line of a document on top, which needs a network that its machine has not."""
    name = re.sub(r"[^a-z0-9]+", "-", line)
    layer = CACHE / f"{base.name}-{name}"
    if not layer.exists():
        making = pathlib.Path(tempfile.mkdtemp(prefix="making-", dir=CACHE))
        for part in ("upper", "work", "merged"):
            (making / part).mkdir()
        script = f"""
            set -e
            mount -t overlay overlay -o lowerdir={base},upperdir={making}/upper,workdir={making}/work {making}/merged
            cp /etc/resolv.conf {making}/merged/etc/resolv.conf
            printf '#!/bin/sh\\nexit 101\\n' >{making}/merged/usr/sbin/policy-rc.d && chmod 755 {making}/merged/usr/sbin/policy-rc.d
            mount -t proc proc {making}/merged/proc
            chroot {making}/merged env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -q && {line}'
            rm {making}/merged/usr/sbin/policy-rc.d
        """
        made = run("unshare", "--mount", "sh", "-c", script, check=False)
        if made.returncode != 0:
            shutil.rmtree(making)
            skipped(f"{line}: {made.stderr[-300:]}")
        (making / "upper").rename(layer)
        shutil.rmtree(making)
    return layer


# --- the guide ---------------------------------------------------------------------------------------------------------------

def guide(machines):
    office, redis, agent = machines["office"], machines["farm"], machines["render"]
    tree = ["deploy/redis/redis.conf", "deploy/redis/users.acl"] + [f"deploy/systemd/{p.name}" for p in (ROOT / "deploy/systemd").glob("*.*")]
    for machine in machines.values():
        for path in tree:
            machine.put(ROOT, [path], pathlib.Path(path).parent)
        machine.put(HATCHERY.parent, [HATCHERY.name], "target/release")
    # Where the CA is: nothing is installed there but the program.
    office.does("install -m 755 target/release/hatchery /usr/local/bin/")
    keys = office.does(block("## Certificates and keys"))
    token = re.findall(r"hatchery_\S+", keys)[1]
    (office.home() / "token").write_text(token + "\n", encoding="utf-8")
    made = office.home()

    redis.put(made, ["farm/ca.pem", "farm/redis.pem", "farm/redis.key"], "farm")
    redis.does(block("**Redis' machine**"))
    passwords = redis.home()

    redis.put(made, ["farm/frontdoor-1.pem", "farm/frontdoor-1.key"], "farm")
    redis.put(made, ["api-keys"])
    redis.does(block("**A front door's machine**"))

    agent.put(made, ["farm/ca.pem", "farm/render-1.pem", "farm/render-1.key"], "farm")
    agent.put(passwords, ["agent-redis-password"])
    (agent.home() / "license").write_text("licence\n", encoding="utf-8")
    server = agent.path(SERVER)
    server.parent.mkdir(parents=True)
    shutil.copy(SIMULATOR, server)
    agent.does(block("**An agent's machine**"))
    if agent.inside("systemctl", "is-active", "hatchery-agent").stdout.strip() != "active":
        raise Failed("the agent does not run")

    operate = block("**An operator's machine**")
    said = office.does(operate)
    for words in ("0 problems", "render-1", "wss://farm.example.com/s/render-1/"):
        if words not in said:
            raise Failed(f"an operator is not told {words!r}: {said}")
    running = agent.inside("pgrep", "-f", f"^{SERVER}").stdout.split()
    owner = agent.inside("stat", "-c", "%U:%G %u", f"/proc/{running[0]}").stdout.strip()
    if not re.fullmatch(r"UNKNOWN:hoops 200[0-3][0-9]", owner):
        raise Failed(f"the server runs as {owner}")
    # As it is found after the next boot.
    for machine, unit in ((redis, "hatchery-frontdoor"), (agent, "hatchery-agent"), (redis, "redis-server")):
        if machine.inside("systemctl", "is-enabled", unit, check=False).stdout.strip() != "enabled":
            raise Failed(f"{unit} does not start with its machine")

    agent.put(made, ["farm/ca.pem"], "farm")
    agent.put(made, ["token"])
    environment = re.search(r"^export .*", operate, re.M)[0]
    stopping = block("To stop for good:").replace("--deadline 30m", "--deadline 1s")
    agent.does(stopping, environment)
    if agent.inside("pgrep", "-f", f"^{SERVER}", check=False).stdout:
        raise Failed("a server outlives an agent that was stopped for good")


def named(line):
    """The files that a comment names."""
    return re.findall(r"\b(?:[\w-]+\.(?:pem|key|acl)|\w+-password|keys)\b", line)


def first_farm(machines):
    front, node = machines["front"], machines["node"]
    made = re.search(r"^```sh\n(.*?)^```", first_farm_text, re.M | re.S)[1]
    making, first, second, caller = re.split(r"\n\n", made.strip())
    for machine in machines.values():
        machine.put(HATCHERY.parent, [HATCHERY.name])
        machine.does("install -m 755 hatchery /usr/local/bin/")
    for name in ("redis.conf", "users.acl"):
        front.put(ROOT / "deploy/redis", [name], "deploy/redis")
    # "On any machine": this one is there already.
    token = re.search(r"hatchery_\S+", front.does(making))[0]
    redis, door = first.split("# and here")
    origin = lambda name: front.home() / ("certs" if name.endswith((".pem", ".key")) else ".") / name
    front.does("install -d /etc/redis/hatchery")
    for name in named(redis.splitlines()[0]):
        shutil.copy2(origin(name), front.path("/etc/redis/hatchery") / name)
    for name in named(door.splitlines()[0]):
        if not (front.home() / name).exists():
            shutil.copy2(origin(name), front.home() / name)
    front.stays("redis-of-the-guide", redis)
    front.stays("door-of-the-guide", f"# {door}")
    for name in named(second.splitlines()[0]):
        shutil.copy2(origin(name), node.home() / name)
    server = node.path(SERVER)
    server.parent.mkdir(parents=True)
    shutil.copy(SIMULATOR, server)
    for place in ("/etc/hoops", "/srv/models"):
        node.path(place).mkdir()
    (node.path("/etc/hoops") / "license").write_text("licence\n", encoding="utf-8")
    node.stays("agent-of-the-guide", second)
    end = time.monotonic() + 30
    while True:
        try:
            said = front.does(caller.replace("hatchery_…", token))
            break
        except Failed:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
    if "ws://10.0.0.6:55" not in said:
        raise Failed(f"no spawn of the first farm: {said}")


def boot(machines, group, switch, wanted):
    for number, (name, (address, lower)) in enumerate(wanted.items()):
        machines[name] = Machine(name, lower, address, group / name)
        machines[name].start(number, switch)
    for machine in machines.values():
        if not machine.booted():
            print(machine.journal())
            skipped(f"no systemd can be booted here ({machine.name})")


def main():
    began = time.monotonic()
    cgroup = run("findmnt", "-n", "-t", "cgroup2", "-o", "TARGET", check=False).stdout.split()
    if not cgroup or run("ip", "netns", "add", f"{PREFIX}-switch", check=False).returncode != 0:
        skipped("no cgroup2, or no network namespaces")
    group = pathlib.Path(cgroup[0]) / PREFIX
    machines, switch = {}, f"{PREFIX}-switch"
    try:
        group.mkdir()
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        base = debian()
        install = re.compile(r"apt-get install --yes [\w -]+\b")
        layers = [with_packages(base, install.search(words)[0]) for words in (block("**Redis' machine**"), first_farm_text)]
        prepared = time.monotonic()
        boot(machines, group, switch, {"office": ("10.0.0.50", [base]), "farm": ("10.0.0.5", [layers[0], base]), "render": ("10.0.0.6", [base])})
        guide(machines)
        for machine in machines.values():
            machine.end()
        machines.clear()
        boot(machines, group, switch, {"front": ("10.0.0.5", [layers[1], base]), "node": ("10.0.0.6", [base])})
        first_farm(machines)
        now = time.monotonic()
        print(f"guides: deploy/README.md and docs/operator/first-farm.md run as they are written on bare Debian {RELEASE}: 5 machines, "
              f"prepared in {prepared - began:.0f} s, done in {now - prepared:.0f} s")
    except Failed as failed:
        for machine in machines.values():
            print(machine.journal())
        sys.exit(f"guides: {failed}")
    finally:
        for machine in machines.values():
            machine.end()
        run("ip", "netns", "del", switch, check=False)
        if group.exists():
            group.rmdir()


main()
