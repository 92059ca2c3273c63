"""The least that Python can do for a kept-alive GET: epoll, recv, a look-up, send. Argument: port.

No parser, no limits, no handler: what a request costs here is the price of its system calls and of the interpreter.
"""

import select
import socket
import sys

READ = 16 * 1024
REPLY = (
    b"HTTP/1.1 200 OK\r\nServer: nuclio-edge\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
)

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
poll = select.epoll()
poll.register(listener, select.EPOLLIN)
clients: dict[int, socket.socket] = {}
while True:
    for number, _ in poll.poll():
        client = clients.get(number)
        if client is None:
            client, _ = listener.accept()
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLIN)
            continue
        try:
            if client.recv(READ):
                client.send(REPLY)
                continue
        except ConnectionError:
            pass
        del clients[number]
        client.close()
