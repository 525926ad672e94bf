"""Requests of Python programs, and of its libraries: what, port and certificate are arguments."""
import sys

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


answer = {"urllib": urllib, "psycopg2": psycopg2, "grpcio": grpcio}[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
assert answer.startswith(b"ctrace-response-5d1f0c") and len(answer) > 70000, answer[:100]
