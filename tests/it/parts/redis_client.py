"""Redis's own client: a value of 200 kB there and back, and a pipeline."""

import sys

import redis

host, port = sys.argv[1].rsplit(":", 1)
client = redis.Redis(host, int(port), socket_timeout=20)
value = b"0123456789" * 20_000
client.set("key", value)
assert client.get("key") == value
pipeline = client.pipeline()
for number in range(100):
    pipeline.incr("count")
assert pipeline.execute()[-1] == 100
print("ok", client.dbsize())
