"""Servers and clients of HTTP that others have written in Python. Each logs what it has sent and received.

Arguments: the program, and the protocol (`h1` or `h2`). A client sends the requests of /plan/requests.jsonl, and
a server does what the target says: `/STATUS/SIZE/KIND/NUMBER`. Halfway through, both wait for the file
/plan/go: a client with its second half, and a server in the middle of each response of the kind `held`.
Both speak TLS, unless the environment has CLEARTEXT.
"""
import asyncio
import base64
import hashlib
import json
import os
import ssl
import sys

PORT = 8443
CLEARTEXT = "CLEARTEXT" in os.environ
HTTP, WEBSOCKET = ("http", "ws") if CLEARTEXT else ("https", "wss")
AUTHORITY = "/etc/ssl/certs/ca-certificates.crt"
CONNECTIONS, WORKERS = 3, 8
PIECE = 3000
MESSAGES, EVENTS = 24, 20


def log(method, target, status, request, response):
    line = {"method": method, "target": target, "status": status, "request": request, "response": response}
    print(json.dumps(line), flush=True)


def body_of(target, size):
    """Which exchange a body belongs to, it says itself."""
    return target.encode().ljust(size, b".")[:size]


async def go():
    while not os.path.exists("/plan/go"):
        await asyncio.sleep(0.01)


async def answer(method, target, send):
    """What a server sends, piece by piece, and how many bytes that are."""
    status, size, kind = target.split("/")[1:4]
    if method == "HEAD" or status in ("204", "304"):
        return 0
    body = body_of(target, int(size))
    pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)] if kind != "length" else [body]
    for number, piece in enumerate(pieces):
        await send(piece)
        if kind == "held" and number == 0:
            print("held", flush=True)
            await go()
    return len(body)


def of_server():
    """The TLS of a server."""
    if CLEARTEXT:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("/server.pem")
    return context


def of_client():
    """The TLS of a client."""
    return None if CLEARTEXT else ssl.create_default_context(cafile=AUTHORITY)


def listening(*_):
    print("listening", PORT, flush=True)


async def serve_hypercorn(protocol):
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            listening()
            await receive()
            return
        received, more = 0, True
        while more:
            message = await receive()
            received += len(message.get("body", b""))
            more = message.get("more_body", False)
        target = (scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")).decode()
        status, size, kind = target.split("/")[1:4]
        headers = [(b"content-length", size.encode())] if kind == "length" and status not in ("204", "304") else []
        await send({"type": "http.response.start", "status": int(status), "headers": headers})

        async def piece(data):
            await send({"type": "http.response.body", "body": data, "more_body": True})

        sent = await answer(scope["method"], target, piece)
        await send({"type": "http.response.body", "body": b""})
        log(scope["method"], target, int(status), received, sent)

    config = Config()
    config.bind = [f"127.0.0.1:{PORT}"]
    if not CLEARTEXT:
        config.certfile, config.keyfile = "/server.pem", "/server.pem"
    config.alpn_protocols = ["h2"] if protocol == "h2" else ["http/1.1"]
    await serve(app, config)


async def serve_aiohttp(_protocol):
    from aiohttp import web

    async def handle(request):
        received, target = len(await request.read()), request.raw_path
        status, size, kind = target.split("/")[1:4]
        if kind == "length" or status in ("204", "304"):
            body = b"" if status in ("204", "304") else body_of(target, int(size))
            log(request.method, target, int(status), received, 0 if request.method == "HEAD" else len(body))
            return web.Response(status=int(status), body=body)
        response = web.StreamResponse(status=int(status))
        response.enable_chunked_encoding()
        await response.prepare(request)
        sent = await answer(request.method, target, response.write)
        await response.write_eof()
        log(request.method, target, int(status), received, sent)
        return response

    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PORT, ssl_context=of_server()).start()
    listening()
    await asyncio.Event().wait()


def serve_nginx():
    """nginx looks up its user, and the image has no users."""
    for name, line in (("passwd", "root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n"), ("group", "root:x:0:\nnogroup:x:65534:\n")):
        with open(f"/etc/{name}", "w") as file:
            file.write(line)
    os.makedirs("/var/log/nginx", exist_ok=True)
    os.makedirs("/var/lib/nginx", exist_ok=True)
    os.execv("/usr/sbin/nginx", ["nginx", "-e", "/dev/stderr", "-c", "/programs/http-nginx.conf"])


async def run(exchange):
    """Sends the requests of the plan, eight at a time, with a pause in the middle."""
    plan = [json.loads(line) for line in open("/plan/requests.jsonl")]
    queue = list(reversed(list(enumerate(plan))))

    async def worker():
        while queue:
            if queue[-1][0] >= len(plan) // 2:
                await go()
            _, step = queue.pop()
            method, target, size = step["method"], step["target"], step["body"]
            body = None if size is None else body_of(target, size)

            async def pieces():
                for at in range(0, len(body), PIECE):
                    yield body[at : at + PIECE]

            status, received = await exchange(method, target, pieces() if step["chunked"] else body)
            log(method, target, status, size or 0, received)

    await asyncio.gather(*(worker() for _ in range(WORKERS)))


async def ask_httpx(protocol):
    import httpx

    limits = httpx.Limits(max_connections=CONNECTIONS)
    context = of_client() or True
    h2 = protocol == "h2"
    base = f"{HTTP}://localhost:{PORT}"
    async with httpx.AsyncClient(http1=not h2, http2=h2, verify=context, limits=limits, timeout=60) as client:

        async def exchange(method, target, body):
            response = await client.request(method, base + target, content=body)
            assert response.http_version == ("HTTP/2" if h2 else "HTTP/1.1")
            return response.status_code, len(response.content)

        await run(exchange)


async def ask_aiohttp(_protocol):
    import aiohttp

    connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=of_client() or True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def exchange(method, target, body):
            async with session.request(method, f"{HTTP}://localhost:{PORT}{target}", data=body) as response:
                return response.status, len(await response.read())

        await run(exchange)


def log_message(direction, connection, message):
    """A message of WebSocket, as text and with what ctrace says of its type."""
    text = message if isinstance(message, str) else base64.b64encode(message).decode()
    kind = "text" if isinstance(message, str) else "binary"
    line = {"direction": direction, "connection": connection, "type": kind, "data": text}
    print(json.dumps(line), flush=True)


async def serve_websockets(_protocol):
    from websockets.asyncio.server import serve

    async def echo(connection):
        number = connection.request.path
        async for message in connection:
            log_message("receive", number, message)
            await connection.send(message)
            log_message("transmit", number, message)

    async with serve(echo, "127.0.0.1", PORT, ssl=of_server()):
        await asyncio.Event().wait()


def message_of(connection, number):
    """Texts that are compressed well with those before them, and bytes that are not."""
    if number % 4 == 3:
        return b"".join(hashlib.sha256(f"{connection} {number} {i}".encode()).digest() for i in range(20 * number))
    return f"message {number} of {connection}: " + "coffee and tea, " * (number * 40 % 700)


async def ask_websockets(_protocol):
    from websockets.asyncio.client import connect

    async def talk(name):
        async with connect(f"{WEBSOCKET}://localhost:{PORT}{name}", ssl=of_client()) as connection:
            for number in range(MESSAGES):
                if number == MESSAGES // 2:
                    print("halfway", flush=True)
                    await go()
                message = message_of(name, number)
                # In several frames, if it is given in several parts.
                parts = [message[:10], message[10:]] if number % 5 == 4 else message
                await connection.send(parts)
                log_message("transmit", name, message)
                log_message("receive", name, await connection.recv())
                if number % 7 == 0:
                    await (await connection.ping())

    await asyncio.gather(*(talk(f"/socket/{number}") for number in range(CONNECTIONS)))


async def serve_events(_protocol):
    from aiohttp import web

    async def handle(request):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for number in range(EVENTS):
            if number == EVENTS // 2:
                print("held", flush=True)
                await go()
            data = f"event {number} of {request.raw_path}"
            # An event of two lines comes in two pieces.
            pieces = [f"id: {number}\nevent: tick\ndata: {data}\n".encode(), b"data: second line\n\n" if number % 2 else b"\n"]
            for piece in pieces:
                await response.write(piece)
            line = {"event": "tick", "data": data + ("\nsecond line" if number % 2 else "")}
            line |= {"number": number + 1, "size": len(b"".join(pieces))}
            print(json.dumps(line), flush=True)
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_get("/{rest:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PORT, ssl_context=of_server()).start()
    await asyncio.Event().wait()


async def ask_events(_protocol):
    import httpx

    async with httpx.AsyncClient(verify=of_client() or True, timeout=60) as client:

        async def listen(name):
            async with client.stream("GET", f"{HTTP}://localhost:{PORT}{name}") as response:
                async for _ in response.aiter_bytes():
                    pass

        await asyncio.gather(*(listen(f"/events/{number}") for number in range(CONNECTIONS)))


PROGRAMS = {
    "websockets-server": serve_websockets,
    "websockets": ask_websockets,
    "events-server": serve_events,
    "events": ask_events,
    "hypercorn": serve_hypercorn,
    "aiohttp-server": serve_aiohttp,
    "httpx": ask_httpx,
    "aiohttp": ask_aiohttp,
}
if sys.argv[1] == "nginx":
    serve_nginx()
asyncio.run(PROGRAMS[sys.argv[1]](sys.argv[2]))
