"""An ordinary client with Sentinel support (redis-py), pointed at the RESP ports of all nodes as its Sentinels.

usage: sentinel_client.py PORT PORT PORT; the first one is the primary's. Says what it has reached, one line each, and waits
for a line on stdin where the cluster is changed under it. Any disagreement ends it with a traceback.
"""
import sys
import time

import redis
from redis.sentinel import Sentinel

ports = [int(p) for p in sys.argv[1:]]
nodes = [("127.0.0.1", p) for p in ports]
sentinel = Sentinel(nodes, socket_timeout=5, min_other_sentinels=1)
writer = sentinel.master_for("dabbawal", socket_timeout=5)
news = redis.Redis(port=ports[2], socket_timeout=20).pubsub()
written = 0


def step(line):
    print(line, flush=True)
    sys.stdin.readline()


def write():
    """One write; through errors, as applications do. Which primary took it is the library's business."""
    global written
    deadline = time.monotonic() + 20
    while True:
        try:
            writer.set("k%d" % written, "v%d" % written)
            written += 1
            return
        except redis.exceptions.RedisError as e:
            if time.monotonic() > deadline:
                raise
            print("# %s: %s" % (type(e).__name__, e), file=sys.stderr)
            time.sleep(0.02)


def expect_primary(port):
    deadline = time.monotonic() + 20
    while True:
        try:
            found = sentinel.discover_master("dabbawal")
        except redis.sentinel.MasterNotFoundError:
            found = None
        if found == ("127.0.0.1", port):
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    for i in range(written):
        assert writer.get("k%d" % i) == b"v%d" % i, i


def expect_replicas(wanted):
    deadline = time.monotonic() + 20
    while sorted(sentinel.discover_slaves("dabbawal")) != sorted(("127.0.0.1", p) for p in wanted):
        assert time.monotonic() < deadline, sentinel.discover_slaves("dabbawal")
        time.sleep(0.02)


def expect_news(old, new):
    wanted = b"dabbawal 127.0.0.1 %d 127.0.0.1 %d" % (old, new)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        message = news.get_message(timeout=1)
        if message and message["type"] == "message":
            assert message["data"] == wanted, message
            return
    raise AssertionError("no +switch-master")


try:
    sentinel.discover_master("nosuch")
    raise AssertionError("a name that nobody has")
except redis.sentinel.MasterNotFoundError:
    pass
news.subscribe("+switch-master")
expect_primary(ports[0])
expect_replicas(ports[1:])
for _ in range(100):
    write()
reader = sentinel.slave_for("dabbawal", socket_timeout=5)
assert reader.execute_command("ROLE")[0] == b"slave"

step("promote the second")  # the first one lives, fenced, and becomes its follower
for _ in range(100):
    write()
expect_primary(ports[1])
expect_news(ports[0], ports[1])
expect_replicas([ports[0], ports[2]])

step("the second dies")
for _ in range(100):
    write()
expect_primary(ports[2])
expect_news(ports[1], ports[2])
assert written == 300
step("done")
