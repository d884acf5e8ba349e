"""A Zenoh client that nobody of us wrote: says something to a running launch and reads the verdict it leads to.

usage: verdict.py ENDPOINT NAMESPACE TEXT    prints the first PULL_OVER verdict as JSON, read from its CDR by rosbags
"""

import json
import sys
import threading

import zenoh

from definitions import typestore

ENDPOINT, NAMESPACE, TEXT = sys.argv[1:4]
PULL_OVER = 4


def main():
    store = typestore()
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", json.dumps([ENDPOINT]))
    config.insert_json5("scouting/multicast/enabled", "false")
    session = zenoh.open(config)
    found, done = {}, threading.Event()

    def on_verdict(sample):
        verdict = store.deserialize_cdr(sample.payload.to_bytes(), "llmasos_msgs/msg/GateVerdict")
        if verdict.action == PULL_OVER and not done.is_set():
            found.update(
                verdict=int(verdict.verdict),
                action=int(verdict.action),
                sequence=int(verdict.sequence),
                command_set=any(int(byte) for byte in verdict.command_id.uuid),
                rule=verdict.rule,
            )
            done.set()

    subscriber = session.declare_subscriber(f"{NAMESPACE}/llmasos/gate/verdict", on_verdict)
    # A command may be said twice: the first may come before the subscription is known everywhere.
    for _ in range(20):
        session.put(f"{NAMESPACE}/llmasos/speech/text", TEXT)
        if done.wait(1.0):
            break
    subscriber.undeclare()
    session.close()
    if not found:
        sys.exit("no PULL_OVER verdict within 20 s")
    print(json.dumps(found))


main()
