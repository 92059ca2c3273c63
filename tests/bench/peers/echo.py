"""The least that can echo bench/in to bench/out: a blocking socket, MQTT 3.1.1, short packets. Argument: port."""

import socket
import sys

sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
sock.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04echo")
assert sock.recv(4)[:1] == b"\x20"
sock.sendall(b"\x82\x0d\x00\x01\x00\x08bench/in\x00")
data = b""
while True:
    data += sock.recv(65536)
    out = []
    while len(data) > 1 and len(data) >= data[1] + 2:
        end = data[1] + 2
        if data[0] & 0xF0 == 0x30:
            payload = data[12:end]
            out.append(b"\x30" + bytes((11 + len(payload),)) + b"\x00\x09bench/out" + payload)
        data = data[end:]
    if out:
        sock.sendall(b"".join(out))
