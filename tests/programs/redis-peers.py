"""A client of Redis whose commands say what their replies are: `LRANGE nums 0 7` returns 8 values, and a script
that gets `E7` fails with that. Prints the number of commands of each name as JSON when it ends.

    redis-peers.py PORT SECONDS [TLS-AUTHORITY]

With 0 seconds it sends a fixed number of commands as fast as it can. Otherwise it goes on for so long, with
pauses, and prints a line when it has begun."""

import collections
import json
import random
import sys
import threading
import time

import redis

port, seconds = int(sys.argv[1]), float(sys.argv[2])
tls = {"ssl": True, "ssl_ca_certs": sys.argv[3]} if len(sys.argv) > 3 else {}
SCRIPT = "return redis.error_reply(ARGV[1])"
counts = collections.Counter()
numbers = random.Random(5)


def connect():
    return redis.Redis(host="localhost", port=port, single_connection_client=True, **tls)


def add(pipeline, number):
    kind = numbers.randrange(4)
    if kind == 0:
        pipeline.lrange("nums", 0, number % 100)
        counts["LRANGE"] += 1
    elif kind == 1:
        pipeline.eval(SCRIPT, 0, f"E{number}")
        counts["EVAL"] += 1
    elif kind == 2:
        pipeline.set(f"key:{number}", "+OK\r\n:1\r\n$3\r\nabc\r\n" * (number % 50))
        counts["SET"] += 1
    else:
        pipeline.get(f"key:{number - 1}")
        counts["GET"] += 1


def subscribe(count):
    subscriber, publisher = connect(), connect()
    channels = subscriber.pubsub()
    channels.subscribe("one", "two")
    channels.get_message(timeout=5)
    channels.get_message(timeout=5)
    for number in range(count):
        publisher.publish("one", f"message {number}")
        channels.get_message(timeout=5)
    counts["PUBLISH"] += count
    counts["SUBSCRIBE"] += 1


client = connect()
client.delete("nums")
client.rpush("nums", *range(1000))
number, end = 0, time.monotonic() + seconds
if seconds:
    print("begun", flush=True)
while number < 4_000 if not seconds else time.monotonic() < end:
    pipeline = client.pipeline(transaction=False)
    for _ in range(numbers.choice([1, 1, 10, 100])):
        number += 1
        add(pipeline, number)
    pipeline.execute(raise_on_error=False)
    if seconds:
        time.sleep(numbers.choice([0.01, 0.15]))
if not seconds:
    transaction = client.pipeline(transaction=True)
    transaction.incr("count").get("count").lrange("nums", 0, 4).execute()
    subscribe(20)
print(json.dumps(counts), flush=True)
