"""A server and a client of gRPC with grpcio, without generated code: messages are bytes.

Argument: `server` or `client`. The client makes the calls of /plan/calls, on one connection, each line one:
number, kind, path, sizes of its messages, sizes of those of the server, status, and what else it is to do. Its
header `x-call` tells the server its part. Both log each call, and what they sent and received of it, as a line of
JSON. Between the two halves of its calls, the client waits until /plan/go exists.
"""
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

ADDRESS = "localhost:8443"
AUTHORITY = "/etc/ssl/certs/ca-certificates.crt"
# Large messages, and no pings, whose answers would come after the end.
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.http2.bdp_probe", 0)]
WORKERS = 8
output = threading.Lock()


def say(line):
    with output:
        print(line, flush=True)


def log(number, path, status, up, down):
    say(json.dumps({"call": number, "path": path, "status": status, "up": up, "down": down}))


def message(number, side, index, size):
    """To which call a message belongs, it says itself."""
    text = f"{number} {side} {index} ".encode()
    return (text * (size // len(text) + 1))[:size]


def sizes(text):
    return [int(size) for size in text.split(",")] if text != "-" else []


def wait_for_go():
    while not os.path.exists("/plan/go"):
        time.sleep(0.01)


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        number, down, status, what = dict(details.invocation_metadata)["x-call"].split("/")
        number, down = int(number), sizes(down)
        _, service, method = details.method.split("/")
        if service != "ctrace.Test":
            log(number, details.method, "UNIMPLEMENTED", [], [])
            return None

        def answers(requests, context, up, sent):
            if what == "gzip":
                context.set_compression(grpc.Compression.Gzip)
            if method == "Both":
                # The answers are between the requests.
                for request in requests:
                    up.append(len(request))
                    for index in range(len(sent), min(len(up), len(down))):
                        sent.append(down[index])
                        yield message(number, "down", index, down[index])
            else:
                up += [len(request) for request in requests]
            if method in ("Down", "Both") or status == "OK":
                for index in range(len(sent), len(down)):
                    sent.append(down[index])
                    yield message(number, "down", index, down[index])
            while what in ("deadline", "cancel") and context.is_active():
                time.sleep(0.005)
            if status != "OK":
                # A text that has to be escaped.
                context.abort(grpc.StatusCode[status], f"call {number}: 100 % schl\u00e4gt fehl")

        def answer(requests, context):
            up, sent = [], []
            try:
                yield from answers(requests, context, up, sent)
            finally:
                # It may have been broken off anywhere.
                log(number, details.method, status, up, sent)

        def single(requests, context):
            answers = list(answer(requests, context))
            return answers[0] if answers else b""

        return {
            "Unary": grpc.unary_unary_rpc_method_handler(lambda request, context: single([request], context)),
            "Up": grpc.stream_unary_rpc_method_handler(single),
            "Down": grpc.unary_stream_rpc_method_handler(lambda request, context: answer([request], context)),
            "Both": grpc.stream_stream_rpc_method_handler(answer),
        }[method]


def server():
    with open("/server.pem", "rb") as file:
        pem = file.read()
    at = pem.index(b"-----BEGIN CERTIFICATE-----")
    credentials = grpc.ssl_server_credentials([(pem[:at], pem[at:])])
    grpc_server = grpc.server(ThreadPoolExecutor(64), options=OPTIONS)
    grpc_server.add_generic_rpc_handlers([Handler()])
    grpc_server.add_secure_port(ADDRESS, credentials)
    grpc_server.start()
    grpc_server.wait_for_termination()


def call(channel, line):
    number, kind, path, up, down, status, what = line.split()
    number, up = int(number), sizes(up)
    sent, received = [], []

    def requests():
        for index, size in enumerate(up):
            if what == "hold" and index == 1:
                say("held")
                wait_for_go()
            sent.append(size)
            yield message(number, "up", index, size)

    make = {"unary": "unary_unary", "up": "stream_unary", "down": "unary_stream", "both": "stream_stream"}[kind]
    method = getattr(channel, make)(path)
    request = requests() if kind in ("up", "both") else next(requests())
    options = {"metadata": [("x-call", f"{number}/{down}/{status}/{what}")], "timeout": 60}
    if what == "gzip":
        options["compression"] = grpc.Compression.Gzip
    if what == "deadline":
        options["timeout"] = 0.3
    try:
        if kind in ("unary", "up"):
            future = method.future(request, **options)
            if what == "cancel":
                time.sleep(0.2)
                future.cancel()
            received.append(len(future.result()))
        else:
            answers = method(request, **options)
            for answer in answers:
                received.append(len(answer))
                if what == "cancel" and len(received) == len(sizes(down)):
                    answers.cancel()
        result = "OK"
    except grpc.FutureCancelledError:
        result = "CANCELLED"
    except grpc.RpcError as error:
        result = error.code().name
    log(number, path, result, sent, received)


def client():
    with open(AUTHORITY, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    with open("/plan/calls") as file:
        calls = file.read().splitlines()
    half = len(calls) // 2
    channel = grpc.secure_channel(ADDRESS, credentials, OPTIONS)
    with channel, ThreadPoolExecutor(WORKERS) as held, ThreadPoolExecutor(WORKERS) as pool:
        # tonic moves a connection after the handshake, and rustls knows it by its address: requests that come
        # together with the end of the handshake are taken for those of another connection.
        grpc.channel_ready_future(channel).result(60)
        time.sleep(0.5)
        running = []
        for number, part in enumerate((calls[:half], calls[half:])):
            running += [held.submit(call, channel, line) for line in part if line.endswith(" hold")]
            for done in [pool.submit(call, channel, line) for line in part if not line.endswith(" hold")]:
                done.result()
            if number == 0:
                say("half")
                wait_for_go()
        for done in running:
            done.result()


{"server": server, "client": client}[sys.argv[1]]()
