"""The plan protocol of tls-server.c, spoken by CPython's ssl module (which uses SSL_read_ex and SSL_write_ex)."""

import hashlib
import json
import os
import socket
import ssl
import sys


def main():
    port, up, down = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sent, received = [hashlib.sha256(), 0], [hashlib.sha256(), 0]

    def count(tally, data):
        tally[0].update(data)
        tally[1] += len(data)

    with socket.create_connection(("127.0.0.1", port)) as raw, context.wrap_socket(raw) as connection:

        def send(data):
            connection.sendall(data)
            count(sent, data)

        send(f"PLAN up={up} down={down}\n".encode())
        for up_size, down_size in zip(map(int, up.split(",")), map(int, down.split(",")), strict=True):
            send(os.urandom(up_size))
            while down_size > 0:
                data = connection.recv(min(down_size, 65536))
                if not data:
                    raise SystemExit("the server left early")
                count(received, data)
                down_size -= len(data)
        connection.unwrap().close()

    def line(tally):
        return {"bytes": tally[1], "sha256": tally[0].hexdigest()}

    print(json.dumps({"side": "client", "vpid": os.getpid(), "connection": 1, "received": line(received), "sent": line(sent)}))


main()
