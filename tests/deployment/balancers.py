"""Runs the samples of load balancers in front of stand-ins, and of real front doors where the programs are built; and the one
that is in front of a node's servers.

usage: balancers.py nginx|haproxy CONFIG [HATCHERY TS3D-SC-SIM REDIS-SERVER]
       balancers.py hoops-nginx|hoops-haproxy CONFIG HATCHERY TS3D-SC-SIM REDIS-SERVER
       balancers.py node CONFIG HATCHERY TS3D-SC-SIM REDIS-SERVER
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from ports import free_port, free_ports

OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"


def until(what, seconds, probe):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if probe():
                return
        time.sleep(0.05)
    raise SystemExit(f"never came: {what}")


class Door:
    """Stands in for a front door: `behaviour` says what becomes of a request, `seen` which came."""

    def __init__(self, certificate):
        self.behaviour, self.seen, self.hung_up = "answer", [], threading.Event()
        self.port = free_port()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(*certificate)
        self.socket = None
        self.open()

    def listen(self):
        s = socket.create_server(("127.0.0.1", self.port), backlog=64)

        def one(raw):
            with raw, contextlib.suppress(OSError), self.context.wrap_socket(raw, server_side=True) as connection:
                connection.settimeout(10)
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    head += piece
                # A request that was not read whole would be answered with a reset.
                head, body = head.split(b"\r\n\r\n", 1)
                length = re.search(rb"content-length: *(\d+)", head.lower())
                while length and len(body) < int(length[1]):
                    body += connection.recv(65536)
                head += b"\r\n"
                self.serve(connection, head)

        def accept():
            while True:
                try:
                    connection, _ = s.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return s

    def open(self):
        self.socket = self.listen()

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def serve(self, connection, head):
        line = head.split(b"\r\n", 1)[0].decode()
        if not line.startswith("GET /readyz "):
            self.seen.append(line)
        if self.behaviour == "answer" or line.startswith("GET /readyz "):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        elif self.behaviour == "hold":
            # HAProxy resets, nginx closes.
            with contextlib.suppress(ConnectionResetError, ssl.SSLError):
                if connection.recv(1) != b"":
                    return
            self.hung_up.set()
        elif self.behaviour == "upgrade":
            assert b"\r\nupgrade: websocket\r\n" in head.lower(), head
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
            connection.sendall(connection.recv(100).upper())
        # "eat": it is gone without an answer.


def configure(kind, sample, directory, doors, https):
    """The sample with this machine's ports and paths."""
    text = open(sample, encoding="utf-8").read()
    replaced = {}
    if kind != "node":
        replaced["10.0.0.0/8"] = INSIDE + "/32"
    for host, port in zip(("10.0.0.5", "10.0.0.7"), doors):
        replaced[f"{host}:{11182 if kind.startswith('hoops-') else 8080}"] = f"127.0.0.1:{port}"
    if kind == "nginx":
        replaced["listen 80 "] = f"listen 127.0.0.1:{free_port()} "
    if kind in ("nginx", "node", "hoops-nginx"):
        replaced |= {
            "listen 443 ": f"listen {https} ",
            "/etc/nginx/": directory + "/",
            "/var/log/nginx/": directory + "/",
            "/run/nginx.pid": directory + "/nginx.pid",
            "server_tokens off;": "server_tokens off;"
            + "".join(f"{t}_temp_path {directory}/{t};" for t in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")),
        }
    else:
        replaced |= {
            "bind :443": f"bind :{https}",
            "bind :80": f"bind 127.0.0.1:{free_port()}",
            "/etc/haproxy/": directory + "/",
            "/dev/log": "127.0.0.1:9",
            "maxconn 20000": "maxconn 500",
        }
    for old, new in replaced.items():
        assert old in text, f"{sample} has no {old}"
        text = text.replace(old, new)
    path = os.path.join(directory, kind + ".conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


@contextlib.contextmanager
def certificates():
    """A directory with a certificate that everybody shows here, and that is its own CA; its two files."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        crt, key = directory + "/farm.crt", directory + "/farm.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
            + ["-addext", "subjectAltName=DNS:frontdoor.farm", "-keyout", key, "-out", crt],
            check=True, capture_output=True,
        )
        yield crt, key


@contextlib.contextmanager
def balancer(kind, sample, doors, certificate, https=None):
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        os.chmod(directory, 0o755)
        crt, key = (open(file, encoding="utf-8").read() for file in certificate)
        for name, text in (("farm.pem", crt + key), ("farm.crt", crt), ("farm.key", key), ("farm-ca.pem", crt),
                           ("node.crt", crt), ("node.key", key)):
            with open(f"{directory}/{name}", "w", encoding="utf-8") as file:
                file.write(text)
        https = https or free_port()
        path = configure(kind, sample, directory, doors, https)
        nginx = not kind.endswith("haproxy")
        command = ["nginx", "-p", directory, "-c", path] if nginx else ["haproxy", "-f", path]
        subprocess.run(command + (["-t", "-q"] if nginx else ["-c", "-q"]), check=True)
        log = stack.enter_context(open(f"{directory}/said", "w+", encoding="utf-8"))
        process = subprocess.Popen(command + (["-g", "daemon off;"] if nginx else ["-db"]), stdout=log, stderr=log)

        def listens():
            if process.poll() is not None:
                log.seek(0)
                raise SystemExit(f"{kind} ended with {process.returncode}: {log.read()}")
            return socket.create_connection(("127.0.0.1", https), 1).close() or True

        try:
            until(f"{kind} listens", 10, listens)
            yield https
        finally:
            process.terminate()
            process.wait(10)


def connect(port, source):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))
    return context.wrap_socket(raw)


def call(port, method, path, source=OUTSIDE, key=None, token=None):
    """The status and the body."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connect(port, source)
    headers = ({"Idempotency-Key": key} if key else {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    connection.request(method, path, body=b"{}" if method == "POST" else None,
                       headers=headers | ({"Content-Type": "application/json"} if method == "POST" else {}))
    answer = connection.getresponse()
    return answer.status, answer.read()


def subscribe(port, token="none", path="/v1/live"):
    live = connect(port, OUTSIDE)
    live.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 b"Authorization: Bearer " + token.encode() + b"\r\n"
                 b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    return live


def stand_ins(kind, sample, certificate):
    doors = [Door(certificate), Door(certificate)]

    def both(behaviour):
        for door in doors:
            door.behaviour, door.seen = behaviour, []

    def seen():
        return sum(len(door.seen) for door in doors)

    def expect(what, found, wanted):
        if found != wanted:
            raise SystemExit(f"{kind}: {what}: {found!r}, not {wanted!r}")

    with balancer(kind, sample, [door.port for door in doors], certificate) as port:
        expect("a spawn from outside", call(port, "POST", "/spawn")[0], 200)
        for path in ("/", "/demo", "/pages/base.css", "/client.js", "/client.d.ts", "/healthz", "/v1/spawns/a", "/v1/spawns/a/log"):
            expect(f"{path} from outside", call(port, "GET", path)[0], 200)
        expect("stopping a spawn from outside", call(port, "DELETE", "/v1/spawns/a")[0], 200)
        for path in ("/v1/nodes", "/v1/spawns", "/v1/spawns/a/b", "/spawnx", "/openapi.json", "/readyz"):
            expect(f"{path} from outside", call(port, "GET", path)[0], 403)
            expect(f"{path} from inside", call(port, "GET", path, INSIDE)[0], 200)
        expect("an order from outside", call(port, "POST", "/v1/nodes/a/drain")[0], 403)

        for (method, path, key, times) in (
            ("POST", "/spawn", None, 1),
            ("POST", "/v1/nodes/a/drain", None, 1),
            ("POST", "/spawn", "k", 2),
        ):
            # nginx leaves a front door that has just failed alone for two seconds, and counts in whole ones.
            time.sleep(3.1 if kind == "nginx" else 0)
            both("eat")
            status = call(port, method, path, INSIDE, key)[0]
            expect(f"{method} {path} with key {key}: answered", status // 100, 5)
            least, most = (2, 3) if times == 2 else (1, 1)
            expect(f"{method} {path} with key {key}: sent {seen()} times", least <= seen() <= most, True)

        time.sleep(3.1)
        both("answer")
        doors[0].close()
        for _ in range(4):
            expect("a spawn while a front door is gone", call(port, "POST", "/spawn")[0], 200)
        doors[0].open()

        both("hold")
        raw = connect(port, OUTSIDE)
        raw.sendall(b"POST /spawn HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        until("the request", 5, lambda: seen() == 1)
        raw.close()
        until("the caller's hanging up", 5, lambda: any(door.hung_up.is_set() for door in doors))

        both("upgrade")
        for path in ("/v1/live", "/s/node/spawn/token"):
            live = subscribe(port, path=path)
            expect(f"the upgrade of {path}", live.recv(4096).split(b"\r\n")[0].split()[1], b"101")
            live.sendall(b"hello")
            expect(f"the echo of {path}", live.recv(100), b"HELLO")
            live.close()


def farm(stack, directory, certificate, hatchery, simulated, redis, *flags, door_flags=((), ())):
    """A farm of two front doors and one agent, with these flags: their ports, the agent's, and the text of an API key."""

    def start(*command):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        # The registry is the first to come and goes last; what the others want of it is done by then.
        stack.callback(process.terminate)

    registry = free_port()
    start(redis, "--port", str(registry), "--save", "", "--dir", directory)
    until("Redis", 10, lambda: socket.create_connection(("127.0.0.1", registry), 1).close() or True)
    url = f"--registry=redis://127.0.0.1:{registry}"
    license_file = os.path.join(directory, "license")
    with open(license_file, "w", encoding="utf-8") as file:
        file.write("key")
    addresses = [free_port() for _ in range(3)]
    start(hatchery, "agent", url, "--node=n", f"--executable={simulated}", f"--license-file={license_file}",
          f"--state-dir={directory}/state", "--slots=4", "--on-shutdown=kill", *flags,
          *(f"--{flag}=127.0.0.1:{p}" for flag, p in zip(("listen", "admin-listen", "liveliness-listen"), addresses)))
    doors = [(free_port(), free_port()) for _ in range(2)]
    secret, keys = "s" * 42 + "8", os.path.join(directory, "keys")
    with open(keys, "w", encoding="utf-8") as file:
        known = {"id": "balancer0000", "sha256": hashlib.sha256(secret.encode()).hexdigest()}
        json.dump(known | {"scopes": ["spawn", "operate"]}, file)
    for (port, admin), more in zip(doors, door_flags):
        start(hatchery, "frontdoor", url, f"--listen=127.0.0.1:{port}", f"--admin-listen=127.0.0.1:{admin}",
              f"--tls-cert={certificate[0]}", f"--tls-key={certificate[1]}", f"--api-keys={keys}", *more)
    return doors, addresses, "hatchery_balancer0000_" + secret


def real(kind, sample, certificate, *programs):
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        first = free_ports(41)
        doors, addresses, token = farm(stack, directory, certificate, *programs, f"--ports={first}-{first + 40}")
        health = os.path.join(os.path.dirname(sample), "..", "docker", "healthcheck")
        for admin in (doors[0][1], doors[1][1], addresses[1]):
            environment = os.environ | {"HEALTHCHECK_PORT": str(admin)}
            until("the image's health check", 20, lambda: subprocess.run(["bash", health], env=environment).returncode == 0)
        unused = os.environ | {"HEALTHCHECK_PORT": str(free_port())}
        assert subprocess.run(["bash", health], env=unused).returncode == 1
        with balancer(kind, sample, [port for port, _ in doors], certificate) as port:
            until("the node", 10, lambda: b'"up"' in call(port, "GET", "/v1/nodes", INSIDE, token=token)[1])
            status, body = call(port, "POST", "/spawn")
            assert status == 401, body
            status, body = call(port, "POST", "/spawn", key="once", token=token)
            assert status == 200, body
            again = call(port, "POST", "/spawn", key="once", token=token)[1]
            assert json.loads(body) == json.loads(again), (body, again)
            host, endpoint = json.loads(body)["endpoint"].removeprefix("ws://").rsplit(":", 1)
            socket.create_connection((host, int(endpoint)), 5).close()
            live, said = subscribe(port, token), b""
            while b'"hello"' not in said and (piece := live.recv(4096)):
                said += piece
            assert b" 101 " in said and b'"hello"' in said, said
            live.close()
        if scrapes := os.environ.get("SCRAPES"):
            for role, admin in (("frontdoor", doors[0][1]), ("agent", addresses[1])):
                connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=5)
                connection.request("GET", "/metrics")
                with open(os.path.join(scrapes, f"{role}.metrics"), "wb") as file:
                    file.write(connection.getresponse().read())


def hoops(kind, sample, certificate, *programs):
    """Consumers of HOOPS Server spawn through the sample, and viewers come by the URL they were given and as consumers rewrite it."""
    for form in ("relay", "port"):
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            https, first = free_port(), free_ports(41)
            listeners = [free_port(), free_port()]
            more = [(f"--public-url=https://localhost:{https}", f"--hoops-listen=127.0.0.1:{listener}", "--hoops-owner=balancer0000",
                     f"--hoops-endpoint={form}") for listener in listeners]
            farm(stack, directory, certificate, *programs, f"--ports={first}-{first + 40}", door_flags=more)
            stack.enter_context(balancer(kind, sample, listeners, certificate, https))

            def status():
                return json.loads(call(https, "GET", "/api/status", INSIDE)[1])

            until("the node", 20, lambda: status()["availableSpawnPorts"] == 4)
            for path in ("/api/status", "/api/spawns", "/x.html"):
                assert call(https, "GET", path)[0] == 403, path
            for path in ("/", "/s/a/b/c", "/wsproxy/1"):
                assert call(https, "GET", path)[0] == 426, path
            for path in ("/service", "/api/spawn", "/Service/"):
                answer, body = call(https, "POST", path)
                assert answer == 200, body
                url = json.loads(body)["endpoints"]["ws"]
                port, rest = re.fullmatch(r"wss://localhost:(\d+)(/s/.*)?", url).groups()
                ways = [rest, f"/ws/{port}{rest}", f"/wsproxy/{port}{rest}"] if form == "relay" else [f"/streaming/{port}"] * 3
                viewer = subscribe(https, path=ways[("/service", "/api/spawn", "/Service/").index(path)])
                said = viewer.recv(4096)
                assert b" 101 " in said, said
                viewer.close()
            viewer = subscribe(https, path="/?renderingLocation=csr")
            assert b" 101 " in viewer.recv(4096)
            viewer.close()
            until("every spawn ends with its viewer", 20, lambda: status()["availableSpawnPorts"] == 4)


def node(sample, certificate, *programs):
    """A viewer reaches its server through the node's own nginx, and nobody reaches anything else."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        https = free_port()
        flags = (f"--endpoint=wss://localhost:{https}/viewer/{{port}}", "--ports=55000-55999")
        doors, _, token = farm(stack, directory, certificate, *programs, *flags)
        door = doors[0][0]
        stack.enter_context(balancer("node", sample, [], certificate, https))
        until("the node", 20, lambda: b'"up"' in call(door, "GET", "/v1/nodes", token=token)[1])
        for path in ("/", "/viewer/22", "/viewer/550000", "/viewer/54999", "/viewer/55000/x"):
            status, _ = call(https, "GET", path)
            assert status == 404, (path, status)
        status, body = call(door, "POST", "/spawn", token=token)
        assert status == 200, body
        spawn = json.loads(body)
        path = spawn["endpoint"].removeprefix(f"wss://localhost:{https}")
        assert re.fullmatch(r"/viewer/55\d{3}", path), spawn
        assert call(https, "GET", path)[0] == 426

        viewer = connect(https, OUTSIDE)
        viewer.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                       "Sec-WebSocket-Protocol: binary\r\nSec-WebSocket-Version: 13\r\n"
                       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        said = viewer.recv(4096).lower()
        assert b" 101 " in said and b"sec-websocket-protocol: binary" in said, said

        def state():
            return json.loads(call(door, "GET", f"/v1/spawns/{spawn['id']}", token=token)[1])

        assert state()["state"] == "ready", state()
        viewer.close()
        until("the server ends with its viewer", 20, lambda: state()["state"] == "exited")
        assert state()["exit"]["reason"] == "disconnected", state()


if __name__ == "__main__":
    with certificates() as shown:
        if sys.argv[1] == "node":
            node(sys.argv[2], shown, *sys.argv[3:])
            sys.exit()
        if sys.argv[1].startswith("hoops-"):
            hoops(*sys.argv[1:3], shown, *sys.argv[3:])
            sys.exit()
        stand_ins(*sys.argv[1:3], shown)
        if len(sys.argv) > 3:
            real(*sys.argv[1:3], shown, *sys.argv[3:])
