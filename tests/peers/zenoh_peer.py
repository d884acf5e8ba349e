"""A plain Zenoh session that is told what to put and shows what comes, byte for byte: for what no well-behaved node would send.

usage: zenoh_peer.py ENDPOINT

stdin, one JSON object a line; payloads and attachments are hexadecimal, attachments optional:
  {"put": KEY, "payload", "attachment"}      one sample
  {"keep": KEY, "payload", "attachment"}     one sample by an advanced publisher with a cache: TRANSIENT_LOCAL, as rmw_zenoh declares it
  {"listen": KEY}                            a subscriber;  {"catch_up": KEY} an advanced one, which asks for what was published before
  {"tokens": KEY}                            liveliness tokens, with the GID that rmw_zenoh derives from each
  {"declare": TOKEN}                         a liveliness token of its own
  {"ask": KEY, "payload", "attachment"}      a query
stdout, one JSON object a line: {"key", "payload", "attachment", "encoding"} of samples, {"token", "alive", "gid"}, {"answer" | "error": ...}, {"done": ORDER}.
"""

import json
import sys
import threading

import xxhash
import zenoh
import zenoh.ext

config = zenoh.Config()
config.insert_json5("mode", '"client"')
config.insert_json5("connect/endpoints", json.dumps([sys.argv[1]]))
config.insert_json5("timestamping/enabled", "true")
session = zenoh.open(config)
held = []
one_line = threading.Lock()


def emit(**value):
    """Zenoh's threads speak beside the one that obeys."""
    with one_line:
        print(json.dumps(value), flush=True)


def octets(order, name):
    return bytes.fromhex(order[name]) if name in order else None


def shown(sample):
    attachment = sample.attachment and sample.attachment.to_bytes().hex()
    return {"key": str(sample.key_expr), "payload": sample.payload.to_bytes().hex(), "attachment": attachment, "encoding": str(sample.encoding)}


def gid(token):
    """XXH3-128 of the token, low half first, each half little-endian."""
    digest = xxhash.xxh3_128_intdigest(token.encode())
    return ((digest & (2**64 - 1)).to_bytes(8, "little") + (digest >> 64).to_bytes(8, "little")).hex()


def obey(order):
    payload, attachment = octets(order, "payload"), octets(order, "attachment")
    if "put" in order:
        session.put(order["put"], payload, attachment=attachment)
    if "keep" in order:
        publisher = zenoh.ext.declare_advanced_publisher(
            session,
            order["keep"],
            cache=zenoh.ext.CacheConfig(max_samples=1),
            publisher_detection=True,
            sample_miss_detection=zenoh.ext.MissDetectionConfig(sporadic_heartbeat=0.5),
        )
        publisher.put(payload, attachment=attachment)
        held.append(publisher)
    if "listen" in order:
        held.append(session.declare_subscriber(order["listen"], lambda sample: emit(**shown(sample))))
    if "catch_up" in order:
        history = zenoh.ext.HistoryConfig(detect_late_publishers=True)
        held.append(zenoh.ext.declare_advanced_subscriber(session, order["catch_up"], lambda sample: emit(**shown(sample)), history=history))
    if "tokens" in order:
        see = lambda token: emit(token=str(token.key_expr), alive=token.kind == zenoh.SampleKind.PUT, gid=gid(str(token.key_expr)))
        held.append(session.liveliness().declare_subscriber(order["tokens"], see, history=True))
    if "declare" in order:
        held.append(session.liveliness().declare_token(order["declare"]))
    if "ask" in order:
        for reply in session.get(order["ask"], payload=payload, attachment=attachment, target=zenoh.QueryTarget.ALL_COMPLETE):
            if reply.ok:
                emit(answer=shown(reply.ok))
            else:
                emit(error=reply.err.payload.to_bytes().decode(errors="replace"))
    emit(done=order)


for line in sys.stdin:
    obey(json.loads(line))
