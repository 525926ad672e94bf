"""HTTP without TLS, by each way in which bytes pass sockets. Prints the requests of each connection.

The argument is how long to wait before it begins, in seconds.
"""
import array
import json
import os
import socket
import sys
import time

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


def request(target, body=b""):
    return f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def say(target, status, length, missing=0):
    print(json.dumps({"target": target, "status": status, "length": length, "missing": missing}), flush=True)


def tcp():
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    return client, listener.accept()[0]


def unix():
    path = "/tmp/http.sock"
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client, listener.accept()[0]


def receive_all(receiver, length):
    while length > 0:
        length -= len(receiver.recv(length))


def exchange(client, server, target, send, receive, missing=0):
    """A request by these functions, which is answered in the usual way. `missing` bytes reach no memory."""
    message = request(target, target.encode() * 40)
    send(client, message)
    receive(server, len(message))
    server.sendall(ANSWER)
    receive_all(client, len(ANSWER))
    say(target, 204, len(message), missing)


def in_pieces(message):
    return [message[:10], b"", message[10:11], message[11:700], message[700:]]


def byte_by_byte(sender, message):
    # A unix socket has no room for many pieces that nobody has received.
    for at in range(100):
        sender.send(message[at : at + 1])
    sender.sendall(message[100:])


def read(receiver, length):
    while length > 0:
        length -= len(os.read(receiver.fileno(), length))


def readv(receiver, length):
    buffers = [bytearray(7), bytearray(0), bytearray(length - 7)]
    assert os.readv(receiver.fileno(), buffers) == length


def recvmsg(receiver, length):
    buffers = [bytearray(100), bytearray(length - 100)]
    assert receiver.recvmsg_into(buffers)[0] == length


def peek(receiver, length):
    receiver.recv(20, socket.MSG_PEEK)
    receive_all(receiver, length)


def dropped(receiver, length):
    """The kernel drops the second half of what it would have copied."""
    receive_all(receiver, length - 100)
    receiver.recv(100, socket.MSG_TRUNC)


def forked(receiver, length):
    """A child reads the first half."""
    if os.fork() == 0:
        receive_all(receiver, length // 2)
        os._exit(0)
    os.wait()
    receive_all(receiver, length - length // 2)


def passed(receiver, length):
    """A process reads it that has got the socket from this one."""
    here, there = socket.socketpair()
    if os.fork() == 0:
        _, descriptors, _, _ = socket.recv_fds(there, 1, 1)
        receive_all(socket.socket(fileno=descriptors[0]), length)
        os._exit(0)
    socket.send_fds(here, [b"x"], [receiver.fileno()])
    os.wait()


FORMS = {
    "send": (lambda s, m: s.sendall(m), receive_all),
    "write-read": (lambda s, m: os.write(s.fileno(), m), read),
    "writev-readv": (lambda s, m: os.writev(s.fileno(), in_pieces(m)), readv),
    "sendmsg-recvmsg": (lambda s, m: s.sendmsg(in_pieces(m)), recvmsg),
    "byte-by-byte": (byte_by_byte, receive_all),
    "peek": (lambda s, m: s.sendall(m), peek),
    "forked": (lambda s, m: s.sendall(m), forked),
    "passed": (lambda s, m: s.sendall(m), passed),
}


def sendfile(client, server):
    """The body of the response is a file, whose bytes never are in the memory of the process."""
    with open("/tmp/body", "wb") as file:
        file.write(b"z" * 50000)
    message = request("/sendfile")
    client.sendall(message)
    receive_all(server, len(message))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n"
    server.sendall(head)
    with open("/tmp/body", "rb") as file:
        sent = 0
        while sent < 50000:
            sent += os.sendfile(server.fileno(), file.fileno(), sent, 50000 - sent)
    receive_all(client, len(head) + 50000)
    say("/sendfile", 200, len(message), 50000)


time.sleep(float(sys.argv[1]))
for pair in tcp, unix:
    client, server = pair()
    for name, (send, receive) in FORMS.items():
        exchange(client, server, f"/{pair.__name__}/{name}", send, receive)
    if pair is tcp:
        sendfile(client, server)
        exchange(client, server, "/tcp/dropped", FORMS["send"][0], dropped, 100)
        exchange(client, server, "/after-sendfile", *FORMS["send"])
