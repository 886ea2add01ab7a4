"""Runs a farm of one process and has Schemathesis ask it whatever its OpenAPI document knows.

usage: fuzz.py HATCHERY SCHEMATHESIS SECONDS
"""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

from ports import free_port, free_ports

HATCHERY, SCHEMATHESIS = (os.path.abspath(program) for program in sys.argv[1:3])
SECONDS = sys.argv[3]
SETTINGS = pathlib.Path(__file__).with_name("schemathesis.toml")


@contextlib.contextmanager
def running(name, scratch, command):
    """A process that is ended in any case; its log is shown when something fails."""
    log = scratch / f"{name}.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HATCHERY_")}
    # Who asks to wait a minute is told at once that the line is full: there are other things to ask.
    environment["HATCHERY_MAX_WAITING"] = "0"
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=scratch, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield process
    except SystemExit:
        print(log.read_text(errors="replace")[-4_000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(what, seconds, probe):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := probe():
                return found
        time.sleep(0.05)
    raise SystemExit(f"fuzz: never came: {what}")


def ask(name, registry, scratch):
    """Redis' farm wants a key of its callers, and must refuse those that show none or a wrong one; the other lets everybody in."""
    listen = f"127.0.0.1:{free_port()}"
    command = [HATCHERY, "dev", "--listen", listen, "--registry", registry, "--slots", "32"]
    showing = ["--exclude-checks", "ignored_auth", "--generation-with-security-parameters", "false"]
    if name == "redis":
        make = [HATCHERY, "key", "new", "--scope", "spawn,operate", "--file", str(scratch / "keys")]
        token = subprocess.run(make, check=True, capture_output=True, text=True).stdout.split()[0]
        showing = ["--header", f"Authorization: Bearer {token}"]
        admin = f"127.0.0.1:{free_port()}"
        command = [HATCHERY, "frontdoor", "--listen", listen, "--admin-listen", admin, "--registry", registry, "--farm", "dev"]
        command += ["--api-keys", str(scratch / "keys")]
    with running(f"farm-{name}", scratch, command) as farm:
        host, port = listen.split(":")
        until("the front door", 20, lambda: socket.create_connection((host, int(port)), 1).close() or True)
        fuzz = [SCHEMATHESIS, "--config-file", str(SETTINGS), "run", f"http://{listen}/openapi.json", "--url", f"http://{listen}"]
        fuzz += ["--max-time", SECONDS, "--no-color", *showing]
        said = subprocess.run(fuzz, cwd=scratch, capture_output=True, text=True, timeout=float(SECONDS) * 3 + 60)
        if farm.poll() is not None:
            raise SystemExit(f"fuzz: the farm ended with {farm.returncode}")
    log = (scratch / f"farm-{name}.log").read_text(errors="replace")
    errors = [line for line in log.splitlines() if " ERROR " in line or "panicked" in line]
    cases = re.search(r"(\d+) generated", said.stdout)
    print(f"fuzz: {name}: {cases[1] if cases else 'no'} requests, exit code {said.returncode}, {len(errors)} errors logged")
    if said.returncode or errors or not cases or int(cases[1]) < 200:
        print(said.stdout[-20_000:], said.stderr[-4_000:], *errors[:20], sep="\n")
        return False
    return True


def agent(registry, scratch):
    first = free_ports(64)
    command = [HATCHERY, "agent", "--node", "node-a", "--registry", registry, "--farm", "dev", "--on-shutdown", "kill"]
    command += ["--executable", str(pathlib.Path(HATCHERY).with_name("ts3d-sc-sim")), "--arg", "--license=simulated"]
    command += ["--state-dir", str(scratch / "state"), "--ports", f"{first}-{first + 63}"]
    for flag in ("--listen", "--admin-listen", "--liveliness-listen"):
        command += [flag, f"127.0.0.1:{free_port()}"]
    return command


def main():
    with tempfile.TemporaryDirectory(prefix="hatchery-fuzz-") as directory:
        scratch = pathlib.Path(directory)
        good = ask("embedded", "embedded", scratch)
        port = free_port()
        redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with running("redis", scratch, redis):
            until("redis", 10, lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True)
            url = f"redis://127.0.0.1:{port}"
            with running("agent", scratch, agent(url, scratch)):
                good = ask("redis", url, scratch) and good
    sys.exit(0 if good else 1)


main()
