"""The least that Python can do for a CoAP request: recvfrom, sendto. Argument: port.

No deduplication, no handler, nothing is looked at: what a request costs here is the price of its two system calls.
"""

import select
import socket
import sys

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.setblocking(False)
poll = select.epoll()
poll.register(sock, select.EPOLLIN)
while True:
    poll.poll()
    try:
        while True:
            data, address = sock.recvfrom(4097)
            sock.sendto(b"\x62\x44" + data[2:6] + b"\xc0\xffok", address)
    except BlockingIOError:
        pass
