"""A server and a client of the service in shop.proto, with grpcio and Google's implementation of protocol buffers.

Argument: `server` or `client`. The client logs each message that it sends and receives as a line of JSON, in the
mapping of protocol buffers to JSON.
"""
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.json_format import MessageToDict

sys.path.append("/programs")
shop, services = grpc.protos_and_services("shop.proto")

ADDRESS = "localhost:8443"
REPLIES = 3


def log(direction, message):
    print(json.dumps({"direction": direction, "value": MessageToDict(message)}), flush=True)


def reply(request, number):
    state = shop.STATE_SHIPPED if number == REPLIES - 1 else shop.STATE_ACCEPTED
    answer = shop.OrderReply(order_number=(1 << 60) + len(request.items), state=state, is_last=number == REPLIES - 1)
    answer.accepted_at.FromNanoseconds(1_700_000_000_123_000_000 + number)
    return answer


class Shop(services.ShopServicer):
    def Order(self, request, _context):
        return reply(request, 0)

    def Watch(self, request, _context):
        return (reply(request, number) for number in range(REPLIES))


def server():
    with open("/server.pem", "rb") as file:
        pem = file.read()
    at = pem.index(b"-----BEGIN CERTIFICATE-----")
    grpc_server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.http2.bdp_probe", 0)])
    services.add_ShopServicer_to_server(Shop(), grpc_server)
    grpc_server.add_secure_port(ADDRESS, grpc.ssl_server_credentials([(pem[:at], pem[at:])]))
    grpc_server.start()
    grpc_server.wait_for_termination()


def client():
    with open("/etc/ssl/certs/ca-certificates.crt", "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    items = [shop.Item(article_number=(1 << 64) - 1, count=-3, price=2.5), shop.Item(article_number=7)]
    request = shop.OrderRequest(customer_name="Grete M\u00fcller", items=items, discounts={"ten": 10, "zero": 0})
    request.voucher = b"\x00\xff"
    with grpc.secure_channel(ADDRESS, credentials, [("grpc.http2.bdp_probe", 0)]) as channel:
        stub = services.ShopStub(channel)
        log("transmit", request)
        log("receive", stub.Order(request, timeout=60))
        # gzip, too.
        log("transmit", request)
        for answer in stub.Watch(request, timeout=60, compression=grpc.Compression.Gzip):
            log("receive", answer)


{"server": server, "client": client}[sys.argv[1]]()
