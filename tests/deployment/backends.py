"""Runs the backends of docs/user/backend.md as they are written, and spawns with the tokens that they sign.

usage: backends.py HATCHERY TS3D-SC-SIM REDIS-SERVER
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

from ports import free_port, free_ports

PAGE = pathlib.Path(__file__).parents[2] / "docs/user/backend.md"
PROGRAMS = {"farm-token.mjs": "node", "farm_token.py": sys.executable}


def programs(directory, page=PAGE):
    """Writes each program of the page; its name begins it, in a comment."""
    for block in re.findall(r"^```\w+\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        if named := re.match(r"(?://|#) (\S+\.(?:mjs|py))\n", block):
            path = pathlib.Path(directory) / named[1]
            path.write_text(block, encoding="utf-8")
            yield path


def call(port, method, path, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@contextlib.contextmanager
def running(name, port, command, environment, output=subprocess.DEVNULL):
    process = subprocess.Popen(command, env=os.environ | environment, stdout=output)
    try:
        end = time.monotonic() + 20
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{name} does not listen")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


def farm(stack, directory, flags, hatchery, simulator, redis):
    """The port of a front door with these flags."""
    registry, door, first = free_port(), free_port(), free_ports(20)
    start = [redis, "--port", str(registry), "--save", "", "--dir", directory]
    stack.enter_context(running("Redis", registry, start, {}))
    url = f"--registry=redis://127.0.0.1:{registry}"
    license_file = pathlib.Path(directory) / "license"
    license_file.write_text("key", encoding="utf-8")
    grpc, admin, liveliness, door_admin = (free_port() for _ in range(4))
    start = [hatchery, "agent", url, "--node=n", f"--executable={simulator}", f"--license-file={license_file}", "--on-shutdown=kill",
             f"--state-dir={directory}/state", f"--ports={first}-{first + 19}", "--slots=4", f"--listen=127.0.0.1:{grpc}",
             f"--admin-listen=127.0.0.1:{admin}", f"--liveliness-listen=127.0.0.1:{liveliness}"]
    stack.enter_context(running("the agent", grpc, start, {}))
    start = [hatchery, "frontdoor", url, f"--listen=127.0.0.1:{door}", f"--admin-listen=127.0.0.1:{door_admin}", *flags]
    stack.enter_context(running("the front door", door, start, {}))
    return door


def main(*installed):
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        secret = pathlib.Path(directory) / "jwt.secret"
        with open(secret, "w", encoding="utf-8") as file:
            subprocess.run(["openssl", "rand", "-hex", "32"], check=True, stdout=file)
        secret.chmod(0o600)
        door = farm(stack, directory, [f"--jwt-keys={secret}"], *installed)
        found = {path.name: path for path in programs(directory)}
        assert found.keys() == PROGRAMS.keys(), found
        for name, path in found.items():
            port = free_port()
            with running(name, port, [PROGRAMS[name], str(path)], {"PORT": str(port), "FARM_SECRET_FILE": str(secret)}):
                assert call(port, "POST", "/farm-token", {})[0] == 401
                assert call(port, "POST", "/else", {"X-User": "eve"})[0] == 404
                tokens = {}
                for user in ("ada", "grace"):
                    status, tokens[user] = call(port, "POST", "/farm-token", {"X-User": user})
                    assert status == 200, (name, status)
                bearer = {user: {"Authorization": f"Bearer {token}"} for user, token in tokens.items()}
                # The node may not be there yet.
                end = time.monotonic() + 20
                while (answer := call(door, "POST", "/spawn", bearer["ada"]))[0] == 503 and time.monotonic() < end:
                    time.sleep(0.1)
                status, body = answer
                assert status == 200, (name, status, body)
                spawn = json.loads(body)
                path = f"/v1/spawns/{spawn['id']}"
                assert call(door, "GET", path, bearer["grace"])[0] == 404, "another user's"
                status, body = call(door, "GET", path, bearer["ada"])
                assert status == 200 and "ada" in json.loads(body)["owner"], body
                assert call(door, "DELETE", path, bearer["ada"])[0] in (200, 202)
                broken = tokens["ada"][:-2] + ("AA" if tokens["ada"][-2:] != "AA" else "BB")
                assert call(door, "POST", "/spawn", {"Authorization": f"Bearer {broken}"})[0] == 401


if __name__ == "__main__":
    main(*sys.argv[1:4])
