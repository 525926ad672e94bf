"""Sends requests with a Python library. Arguments: which one, the port, and the certificate."""
import sys
from functools import partial

MARKER = "ctrace-request-a7c31e"
BODY = MARKER + "".join(chr(33 + (i * i // 5) % 90) for i in range(40000))


def urllib(port, certificate):
    import ssl
    import urllib.request

    context = ssl.create_default_context(cafile=certificate)
    request = urllib.request.Request(f"https://localhost:{port}/{MARKER}", BODY.encode())
    with urllib.request.urlopen(request, context=context) as response:
        return response.read()


def psycopg2(port, certificate):
    import psycopg2

    options = {"sslmode": "verify-full", "sslrootcert": certificate, "gssencmode": "disable", "user": MARKER}
    connection = psycopg2.connect(host="localhost", hostaddr="127.0.0.1", port=port, dbname="test", **options)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT '{BODY.replace(chr(39), chr(34)).replace('%', '&')}'")
        answer = cursor.fetchone()[0].encode()
    connection.close()
    return answer


def grpcio(port, certificate):
    import grpc

    with open(certificate, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options = [("grpc.http2.bdp_probe", 0)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
        return channel.unary_unary("/ctrace.Test/Call")(BODY.encode(), timeout=20)


def awscrt(port, certificate):
    import io

    from awscrt.http import HttpClientConnection, HttpHeaders, HttpRequest
    from awscrt.io import ClientTlsContext, TlsContextOptions

    options = TlsContextOptions()
    options.override_default_trust_store_from_path(None, certificate)
    options = ClientTlsContext(options).new_connection_options()
    options.set_server_name("localhost")
    connection = HttpClientConnection.new("localhost", port, tls_connection_options=options).result(20)
    headers = HttpHeaders([("host", "localhost"), ("content-length", str(len(BODY)))])
    request = HttpRequest("POST", f"/{MARKER}", headers, io.BytesIO(BODY.encode()))
    pieces = []
    stream = connection.request(request, on_body=lambda http_stream, chunk, **_: pieces.append(chunk))
    stream.activate()
    assert stream.completion_future.result(20) == 200
    connection.close().result(20)
    return b"".join(pieces)


def s2n(port, certificate):
    """The library in awscrt by its own functions: each way of sending."""
    import ctypes
    import socket

    # This initialises the library, too.
    import awscrt.io
    import _awscrt

    class Piece(ctypes.Structure):
        _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]

    def pieces(*parts):
        return (Piece * len(parts))(*((part, len(part)) for part in parts)), ctypes.c_ssize_t(len(parts))

    library, blocked = ctypes.CDLL(_awscrt.__file__), ctypes.c_int()

    def call(name, *arguments, result=ctypes.c_int):
        function = library[name]
        function.restype = result
        value = function(*arguments)
        assert value is not None and (result is ctypes.c_void_p or value >= 0), name
        return value

    def move(name, *arguments):
        return call(name, connection, *arguments, ctypes.byref(blocked), result=ctypes.c_ssize_t)

    config = ctypes.c_void_p(call("s2n_config_new", result=ctypes.c_void_p))
    call("s2n_config_set_verification_ca_location", config, certificate.encode(), None)
    connection = ctypes.c_void_p(call("s2n_connection_new", 1, result=ctypes.c_void_p))
    call("s2n_connection_set_config", connection, config)
    call("s2n_set_server_name", connection, b"localhost")
    with socket.create_connection(("127.0.0.1", port)) as sock:
        call("s2n_connection_set_fd", connection, sock.fileno())
        call("s2n_negotiate", connection, ctypes.byref(blocked))
        head = f"POST /{MARKER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        body = BODY.encode()
        sent = move("s2n_sendv", *pieces(head[:20], head[20:], body[:1000]))
        assert sent == len(head) + 1000, sent
        # Only the first 500 bytes of these were sent.
        sent = move("s2n_sendv_with_offset", *pieces(body[500:900], body[900:20000], body[20000:20001]), ctypes.c_ssize_t(500))
        assert sent == 20001 - 1000, sent
        assert move("s2n_send", body[20001:], ctypes.c_ssize_t(len(body) - 20001)) == len(body) - 20001
        answer, room = b"", ctypes.create_string_buffer(8192)
        while len(answer.partition(b"\r\n\r\n")[2]) < 70000:
            answer += room[:move("s2n_recv", room, ctypes.c_ssize_t(len(room)))]
    call("s2n_connection_free", connection)
    return answer.partition(b"\r\n\r\n")[2]


def botan(version, port, certificate):
    """The client of Botan's command line, which sends what it reads."""
    import subprocess

    options = [f"--port={port}", f"--trusted-cas={certificate}", "--skip-system-cert-store", f"--tls-version={version}"]
    client = subprocess.Popen(["/usr/bin/botan", "tls_client", "localhost"] + options, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    head = f"POST /{MARKER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n"
    client.stdin.write((head + BODY).encode())
    client.stdin.flush()
    said = b""
    while len(said.rpartition(b"\r\n\r\n")[2]) < 70000 and (piece := client.stdout.read1()):
        said += piece
    client.stdin.close()
    # It may print more when it ends.
    said += client.stdout.read()
    assert client.wait(20) == 0
    return said.rpartition(b"\r\n\r\n")[2]


def echo(port, certificate):
    """Lines, which the server sends back: by TLS 1.2 and by 1.3."""
    import socket
    import ssl
    import time

    context = ssl.create_default_context(cafile=certificate)
    line = f"ctrace-response-5d1f0c {MARKER} {BODY}{BODY}\n".encode()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.minimum_version = context.maximum_version = version
        until = time.monotonic() + 20
        while True:
            try:
                sock = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                assert time.monotonic() < until, "nobody listens"
                time.sleep(0.05)
        with context.wrap_socket(sock, server_hostname="localhost") as tls:
            for _ in range(2):
                tls.sendall(line)
                answer = b""
                while not answer.endswith(b"\n"):
                    answer += tls.recv(65536)
                assert answer == line
    return answer


def primp(port, certificate):
    import primp

    client = primp.Client(ca_cert_file=certificate)
    return client.post(f"https://127.0.0.1:{port}/{MARKER}", content=BODY.encode()).content


def tls_client(port, certificate):
    import tls_client

    session = tls_client.Session(client_identifier="chrome_120", random_tls_extension_order=True)
    url = f"https://127.0.0.1:{port}/{MARKER}"
    return session.post(url, data=BODY, insecure_skip_verify=True).content


def envoy(port, certificate):
    """A request to a proxy, whose connection to the server is the one with TLS."""
    import json
    import socket
    import subprocess
    import time
    import urllib.request

    def typed(kind, **fields):
        return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}

    def address(number):
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    router = {"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router")}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "server"}}
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="proxy",
        http_filters=[router],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )
    authority = {"validation_context": {"trusted_ca": {"filename": certificate}}}
    context = typed("transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=authority)
    cluster = {
        "name": "server",
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {"address": address(10000), "filter_chains": [chain]}
    config = json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    options = ["--config-yaml", config, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    proxy = subprocess.Popen(["/usr/bin/envoy"] + options)
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", 10000)).close()
            break
        except ConnectionRefusedError:
            assert proxy.poll() is None and time.monotonic() < until, "nobody listens"
            time.sleep(0.05)
    request = urllib.request.Request(f"http://127.0.0.1:10000/{MARKER}", BODY.encode())
    with urllib.request.urlopen(request) as response:
        answer = response.read()
    proxy.terminate()
    proxy.wait(20)
    return answer


answer = {"urllib": urllib, "psycopg2": psycopg2, "grpcio": grpcio, "awscrt": awscrt, "s2n": s2n, "echo": echo, "botan12": partial(botan, "1.2"), "botan13": partial(botan, "default"), "primp": primp, "tls_client": tls_client, "envoy": envoy}[sys.argv[1]](
    int(sys.argv[2]), sys.argv[3]
)
assert answer.startswith(b"ctrace-response-5d1f0c") and len(answer) > 70000, answer[:100]
