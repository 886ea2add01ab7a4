#!/usr/bin/env python3
"""Stands in for a stream cache server that compresses (RFC 7692): answers each text with the same in capitals. A viewer that does not
offer compression, or sends a message without it, ends the process with 9."""

import base64
import hashlib
import http.client
import socket
import sys
import zlib

OPTIONS = {}
words = iter(sys.argv[1:])
for word in words:
    name, equals, value = word.partition("=")
    OPTIONS[name] = value if equals else next(words)


def report(liveliness):
    host, _, path = OPTIONS["--liveliness-endpoint"].removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=5)
    connection.request("POST", f"/{path}/{OPTIONS['--id']}?liveliness={liveliness}")
    connection.getresponse().read()


def frame(first, payload):
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return bytes([first]) + length + payload


listener = socket.create_server(("", int(OPTIONS["--sc-port"])))
report("ready")
viewer = listener.accept()[0].makefile("rwb", buffering=0)


def exactly(count):
    data = b""
    while len(data) < count:
        piece = viewer.read(count - len(data))
        if not piece:
            return None
        data += piece
    return data


head = b""
while not head.endswith(b"\r\n\r\n"):
    head += exactly(1) or sys.exit(9)
lines = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n") if ": " in line)
key = next(line for line in head.decode().split("\r\n") if line.lower().startswith("sec-websocket-key")).split(": ")[1]
if "permessage-deflate" not in lines.get("sec-websocket-extensions", ""):
    sys.exit(9)
accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
viewer.write((
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {accept}\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n"
).encode())
while start := exactly(2):
    size = start[1] & 0x7F
    size = size if size < 126 else int.from_bytes(exactly(2 if size == 126 else 8), "big")
    mask = exactly(4)
    payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(exactly(size) if size else b""))
    opcode = start[0] & 0x0F
    if opcode == 8:
        break
    if opcode == 9:
        viewer.write(frame(0x8A, payload))
    elif opcode in (1, 2):
        if not start[0] & 0x40:
            sys.exit(9)
        text = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        compress = zlib.compressobj(wbits=-15)
        answer = compress.compress(text.upper()) + compress.flush(zlib.Z_SYNC_FLUSH)
        viewer.write(frame(0xC1, answer[:-4]))
report("disconnect")
