"""A node of pyzeros, an implementation of ROS 2 on Zenoh in Python that is not ours: drives, hears, asks.

usage: pyzeros_peer.py ENDPOINT DOMAIN NAMESPACE

Publishes nav_msgs/Odometry at 20 Hz on NAMESPACE/odometry. stdin, one JSON object a line:
  {"say": TEXT}      std_msgs/String on NAMESPACE/llmasos/speech/text
  {"call": NAME}     a std_srvs/Trigger
stdout, one JSON object a line: {"topic", "data"} of the mirrors it hears, {"answered": ...}.
"""

import asyncio
import json
import os
import sys
import threading
import time

# pyzeros compiles the codec of its attachment in half a minute; tests/peers/run had it done, into this folder.
os.environ["CYDR_CACHE_DIR"] = os.path.abspath("target/peers/cydr")

import asyncio_for_robotics as afor
import pyzeros
import zenoh
from ros2_pyterfaces.cyclone.all_msgs import Odometry, String
from ros2_pyterfaces.cyclone.std_srvs.srv import Trigger

ENDPOINT, DOMAIN, NAMESPACE = sys.argv[1:4]
MIRRORS = ["llmasos/speech/command", "llmasos/gate/verdict"]


def emit(**value):
    print(json.dumps(value), flush=True)


async def drive():
    odometry = pyzeros.Pub(Odometry, f"{NAMESPACE}/odometry")
    x_m = 0.0
    while True:
        message = Odometry(child_frame_id="base_link")
        now_ns = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
        message.header.frame_id = "map"
        message.pose.pose.position.x = x_m
        message.pose.pose.orientation.w = 1.0
        message.twist.twist.linear.x = 8.0
        odometry.publish(message)
        x_m += 0.4
        await asyncio.sleep(0.05)


async def hear(topic):
    async for message in pyzeros.Sub(String, f"{NAMESPACE}/{topic}/json").listen_reliable():
        emit(topic=topic, data=json.loads(message.data))


@afor.scoped
async def main():
    text = pyzeros.Pub(String, f"{NAMESPACE}/llmasos/speech/text")
    orders, loop = asyncio.Queue(), asyncio.get_running_loop()

    def read():
        for line in sys.stdin:
            loop.call_soon_threadsafe(orders.put_nowait, json.loads(line))

    threading.Thread(target=read, daemon=True).start()
    tasks = [asyncio.ensure_future(one) for one in [drive(), *map(hear, MIRRORS)]]
    emit(ready="pyzeros")
    while True:
        order = await orders.get()
        if "say" in order:
            text.publish(String(data=order["say"]))
        if "call" in order:
            answer = await pyzeros.Client(Trigger, order["call"]).call_async(Trigger.Request())
            emit(answered={"success": bool(answer.success), "message": answer.message})
        if failed := [task.exception() for task in tasks if task.done()]:
            raise failed[0]


config = zenoh.Config()
config.insert_json5("mode", '"client"')
config.insert_json5("connect/endpoints", json.dumps([ENDPOINT]))
with pyzeros.auto_context(node="pyzeros", zenoh_session=zenoh.open(config), domain_id=DOMAIN):
    try:
        asyncio.run(main())
    finally:
        # Its session does not end by itself.
        sys.stdout.flush()
        os._exit(1)
