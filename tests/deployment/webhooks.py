"""Runs the receivers of docs/user/webhooks.md as they are written, and has a farm post to both.

usage: webhooks.py HATCHERY TS3D-SC-SIM REDIS-SERVER
"""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import sys
import tempfile
import time

import backends
from ports import free_port

PAGE = pathlib.Path(__file__).parents[2] / "docs/user/webhooks.md"
PROGRAMS = {"receiver.mjs": "node", "receiver.py": sys.executable}


def forged(port, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/", body='{"kind":"forged"}', headers=headers)
    return connection.getresponse().status


def main(*installed):
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        secret = pathlib.Path(directory) / "secret"
        secret.write_text(f"whsec_{base64.b64encode(os.urandom(32)).decode()}\n", encoding="utf-8")
        secret.chmod(0o600)
        found = {path.name: path for path in backends.programs(directory, PAGE)}
        assert found.keys() == PROGRAMS.keys(), found
        outputs, ports = {}, {}
        for name, path in found.items():
            ports[name] = free_port()
            outputs[name] = pathlib.Path(directory) / f"{name}.out"
            output = stack.enter_context(open(outputs[name], "w", encoding="utf-8"))
            environment = {"PORT": str(ports[name]), "WEBHOOK_SECRET_FILE": str(secret)}
            stack.enter_context(backends.running(name, ports[name], [PROGRAMS[name], str(path)], environment, output))
        urls = [f"--webhook=http://127.0.0.1:{port}/" for port in ports.values()]
        door = backends.farm(stack, directory, [*urls, f"--webhook-secret-file={secret}"], *installed)
        # The node may not be there yet, and the delivery begins with what happens once it has begun.
        spawns, end = [], time.monotonic() + 40
        waiting = set(PROGRAMS)
        while waiting and time.monotonic() < end:
            status, body = backends.call(door, "POST", "/spawn", {})
            if status == 200:
                spawns.append(json.loads(body)["id"])
                backends.call(door, "DELETE", f"/v1/spawns/{spawns[-1]}", {})
            time.sleep(0.5)
            said = {name: output.read_text(encoding="utf-8") for name, output in outputs.items()}
            waiting = {
                name for name in waiting
                if not any(re.search(f"spawn.ready {id}\n(.*\n)*spawn.exited {id}\n", said[name]) for id in spawns)
            }
        assert not waiting, said
        now = str(int(time.time()))
        for name, port in ports.items():
            wrong = {"webhook-id": "evt_1", "webhook-timestamp": now, "webhook-signature": f"v1,{'A' * 43}="}
            for headers in ({}, wrong, wrong | {"webhook-timestamp": "1"}, wrong | {"webhook-signature": ""}):
                assert forged(port, headers) == 401, (name, headers)
            assert "forged" not in outputs[name].read_text(encoding="utf-8"), name


if __name__ == "__main__":
    main(*sys.argv[1:])
