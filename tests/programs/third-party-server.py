"""A TLS server for programs that are not ours: HTTP, PostgreSQL or gRPC inside TLS.

Arguments: the protocol, and a file with a certificate and its key. It answers every request with a marker and
a long body. For each connection that moved data it reports the data and both addresses.
"""
import hashlib
import http.server
import json
import os
import select
import socket
import ssl
import struct
import sys
import threading

MARKER = b"ctrace-response-5d1f0c"
BODY = MARKER + bytes(33 + (i * i // 7) % 90 for i in range(70000))
output = threading.Lock()


class Counted(ssl.SSLSocket):
    """Counts what comes out of TLS and what goes into it."""

    def read(self, size=1024, buffer=None):
        result = super().read(size, buffer)
        data = result if buffer is None else memoryview(buffer)[:result]
        self.tally["received"].append(bytes(data))
        return result

    def send(self, data, flags=0):
        count = super().send(data, flags)
        self.tally["sent"].append(bytes(memoryview(data).cast("B")[:count]))
        return count


def report(number, tls):
    def tally(pieces):
        data = b"".join(pieces)
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def end(address):
        return {"address": address[0], "port": address[1]}

    line = {"side": "server", "vpid": os.getpid(), "connection": number, "server": end(tls.ends[0]), "client": end(tls.ends[1])}
    line.update({way: tally(pieces) for way, pieces in tls.tally.items()})
    with output:
        print(json.dumps(line), flush=True)


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body, kind = BODY, "application/octet-stream"
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(length + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # An index of Python packages, as pip and uv expect it.
        name = self.path.strip("/").split("/")[-1]
        if self.path.startswith("/simple/"):
            link = f'<a href="/{name.replace("-", "_")}-1.0-py3-none-any.whl" data-dist-info-metadata="true">1.0</a>'
            body, kind = f"<!DOCTYPE html><!-- {MARKER.decode()} --><html><body>{link}</body></html>".encode(), "text/html"
        elif name.endswith(".metadata"):
            package = name.split("-")[0]
            body = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n\n{MARKER.decode()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass


def http_service(tls):
    Http(tls, tls.ends[1], None)


def message(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body


def postgres_service(tls):
    """As much of PostgreSQL's protocol as a query needs (protocol-message-formats of its manual)."""
    stream = tls.makefile("rb")
    stream.read(struct.unpack("!I", stream.read(4))[0] - 4)
    parameters = {b"server_version": b"15.0", b"client_encoding": b"UTF8", b"DateStyle": b"ISO, MDY"}
    told = b"".join(message(b"S", name + b"\0" + value + b"\0") for name, value in parameters.items())
    ready = message(b"Z", b"I")
    tls.sendall(message(b"R", struct.pack("!I", 0)) + told + ready)
    while stream.read(1) == b"Q":
        stream.read(struct.unpack("!I", stream.read(4))[0] - 4)
        column = b"answer\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0)
        row = struct.pack("!hI", 1, len(BODY)) + BODY
        end = message(b"C", b"SELECT 1\0")
        tls.sendall(message(b"T", struct.pack("!h", 1) + column) + message(b"D", row) + end + ready)


def grpc_backend():
    """A server of gRPC without TLS; its address."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    # No pings: the client would end without reading the answers to its own.
    server = grpc.server(ThreadPoolExecutor(), options=[("grpc.http2.bdp_probe", 0)])
    method = grpc.unary_unary_rpc_method_handler(lambda request, _: BODY)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ctrace.Test", {"Call": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, ("127.0.0.1", port)


def forward(address):
    """A service that hands everything on, on one thread: two must not use a TLS connection at a time."""

    def service(tls):
        with socket.create_connection(address) as backend:
            while True:
                ready = [tls] if tls.pending() else select.select([tls, backend], [], [])[0]
                for source, sink in ((tls, backend), (backend, tls)):
                    if source in ready:
                        if not (data := source.recv(65536)):
                            return
                        sink.sendall(data)

    return service


def serve(context, service, plain, number, sock):
    tls = None
    try:
        if plain == "postgres":
            assert struct.unpack("!II", sock.recv(8)) == (8, 80877103), "no SSLRequest"
            sock.sendall(b"S")
        ends = (sock.getsockname(), sock.getpeername())
        tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        tls.ends, tls.tally = ends, {"received": [], "sent": []}
        tls.do_handshake()
        service(tls)
    except OSError as error:
        print(f"connection {number}: {error}", file=sys.stderr, flush=True)
    if tls is not None:
        if any(tls.tally.values()):
            report(number, tls)
        tls.close()


def main():
    protocol = sys.argv[1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = Counted
    context.load_cert_chain(sys.argv[2])
    backend = grpc_backend() if protocol == "grpc" else None
    context.set_alpn_protocols(["h2"] if backend else ["http/1.1"])
    service = {"http": http_service, "postgres": postgres_service}.get(protocol) or forward(backend[1])
    listener = socket.create_server(("127.0.0.1", 0))
    print("listening", listener.getsockname()[1], flush=True)
    number = 0
    while True:
        number += 1
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(context, service, protocol, number, sock), daemon=True).start()


main()
