"""Connections of CPython's ssl module over all kinds of sockets. Both ends are in this process, each on its
own thread. Standard input: a key and a certificate in PEM up to a line with a dot; then, once "ready" is
printed, a line to begin. Connections whose names begin with "early" have done their handshake by then. For
each connection it prints a line of JSON: the addresses of both ends, and what the handshake has agreed on."""

import json
import os
import socket
import ssl
import sys
import threading

EXCHANGES = 3


class InMemory:
    """TLS in memory: what is to be sent is fetched, and what was received is put in, by the program itself."""

    def __init__(self, raw, context, **options):
        self.raw, self.incoming, self.outgoing = raw, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **options)
        self.until_done(self.tls.do_handshake)

    def until_done(self, call, *arguments):
        while True:
            try:
                result = call(*arguments)
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(self.raw.recv(65536))

    def flush(self):
        if self.outgoing.pending:
            self.raw.sendall(self.outgoing.read())

    def sendall(self, data):
        self.until_done(self.tls.write, data)

    def recv(self, length):
        return self.until_done(self.tls.read, length)


def on_socket(raw, context, **options):
    return context.wrap_socket(raw, **options)


def shown(address):
    if isinstance(address, tuple):
        return {"address": address[0].removeprefix("::ffff:"), "port": address[1]}
    path = address.decode().replace("\0", "@") if isinstance(address, bytes) else address
    return {"address": path, "port": None} if path else None


def pair(family, address, wrap, version):
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()
    raw = socket.socket(family)
    raw.connect(listener.getsockname())
    names = {"client": shown(raw.getsockname()), "server": shown(raw.getpeername())}
    ends = {}

    def serve():
        ends["server"] = wrap(listener.accept()[0], server, server_side=True)

    thread = threading.Thread(target=serve)
    thread.start()
    ends["client"] = wrap(raw, clients[version], server_hostname="sockets.test")
    thread.join()
    return ends, names, listener


def exchange(name, ends):
    def serve():
        for number in range(EXCHANGES):
            ends["server"].recv(100)
            ends["server"].sendall(f"{name} down {number}".encode())

    thread = threading.Thread(target=serve)
    thread.start()
    for number in range(EXCHANGES):
        ends["client"].sendall(f"{name} up {number}".encode())
        ends["client"].recv(100)
    thread.join()


pem = os.memfd_create("pem")
for line in sys.stdin:
    if line == ".\n":
        break
    os.write(pem, line.encode())
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(f"/proc/self/fd/{pem}")
server.set_alpn_protocols(["http/1.1"])
clients = {}
for version in 2, 3:
    client = clients[version] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2 if version == 2 else ssl.TLSVersion.TLSv1_3
    client.set_alpn_protocols(["h2", "http/1.1"])

KINDS = {
    "ipv4": (socket.AF_INET, ("127.0.0.1", 0), on_socket, 3),
    "ipv6": (socket.AF_INET6, ("::1", 0), on_socket, 2),
    "path": (socket.AF_UNIX, "/tls-sockets.sock", on_socket, 2),
    "abstract": (socket.AF_UNIX, "\0tls-sockets", on_socket, 3),
    "memory": (socket.AF_INET, ("127.0.0.1", 0), InMemory, 3),
    "1.2 memory": (socket.AF_INET, ("127.0.0.1", 0), InMemory, 2),
}
connections = {"early ipv4": pair(*KINDS["ipv4"]), "early memory": pair(*KINDS["memory"])}
print("ready", flush=True)
sys.stdin.readline()
connections |= {name: pair(*kind) for name, kind in KINDS.items()}
for name, (ends, names, _) in connections.items():
    exchange(name, ends)
    tls = getattr(ends["client"], "tls", ends["client"])
    cipher, version, _ = tls.cipher()
    agreed = {"version": tls.version(), "cipher": cipher, "alpn": tls.selected_alpn_protocol()}
    print(json.dumps({"name": name} | names | agreed), flush=True)
