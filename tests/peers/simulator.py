"""A simulator in Python: the time, the vehicle and a pedestrian, on plain keys and in CARLA's dialect of rmw_zenoh.

usage: simulator.py ENDPOINT NAMESPACE [--lane plain|carla|both] [--domain N] [--rate HZ] [--start S] [--speed FACTOR]
                    [--pause AT FOR] [--jump AT BY] [--duration S]

Publishes /clock at --rate, and NAMESPACE/odometry (8 m/s) and NAMESPACE/objects (one pedestrian 25 m ahead) at 20 Hz or --rate if that is
less, all in simulation time: --start at first, --speed times as fast as the wall. AT counts wall seconds; a negative BY jumps back. CARLA declares its keys with `*` for the
hash and sends one constant attachment. Prints one JSON line a second: {"now": simulation seconds, "wall": seconds,
"ticks": clocks said}.
"""

import argparse
import json
import struct
import time

import numpy
import zenoh
from rosbags.interfaces import Nodetype

from definitions import typestore

STORE = typestore()
CLOCK, ODOMETRY, OBJECTS = "rosgraph_msgs/msg/Clock", "nav_msgs/msg/Odometry", "autoware_perception_msgs/msg/PredictedObjects"
WORLD_HZ = 20.0
# Sequence 1, time 0, a GID of AB: what CARLA and zenoh_carla_bridge send with every sample.
ATTACHMENT = struct.pack("<qqB16s", 1, 0, 16, b"\xab" * 16)
PEDESTRIAN = 7


def zero(name):
    """A message of zeros, empty texts and empty lists."""

    def value(kind, of):
        if kind == Nodetype.NAME:
            return zero(of)
        if kind == Nodetype.BASE:
            return "" if of[0] == "string" else {"bool": False}.get(of[0], 0)
        (kind, inner), count = of if kind == Nodetype.ARRAY else (of[0], 0)
        if kind == Nodetype.BASE and inner[0] != "string":
            return numpy.zeros(count, dtype=inner[0])
        return [value(kind, inner) for _ in range(count)]

    return STORE.types[name](**{field: value(*kind) for field, kind in STORE.fielddefs[name][1]})


def clock_of(now_s):
    """The time as a message."""
    clock = zero(CLOCK)
    clock.clock.sec, clock.clock.nanosec = int(now_s), int(now_s % 1 * 1e9)
    return clock


def world(clock):
    """The vehicle and what is around it at a moment, by topic and type."""
    ego, scene = zero(ODOMETRY), zero(OBJECTS)
    for message, frame in ((ego, "map"), (scene, "base_link")):
        message.header.stamp, message.header.frame_id = clock.clock, frame
    ego.twist.twist.linear.x, ego.pose.pose.orientation.w = 8.0, 1.0
    person, label = zero("autoware_perception_msgs/msg/PredictedObject"), zero("autoware_perception_msgs/msg/ObjectClassification")
    person.object_id.uuid[0], person.existence_probability = 1, 1.0
    label.label, label.probability = PEDESTRIAN, 1.0
    person.classification.append(label)
    pose = person.kinematics.initial_pose_with_covariance.pose
    pose.position.x, pose.orientation.w = 25.0, 1.0
    scene.objects.append(person)
    return {("odometry", ODOMETRY): ego, ("objects", OBJECTS): scene}


def keys(topic, kind, args):
    """The Zenoh keys of a topic with the attachment each of them needs."""
    name = topic.lstrip("/") if topic.startswith("/") else f"{args.namespace}/{topic}"
    if args.lane != "carla":
        yield name, None
    if args.lane != "plain":
        package, _, type_name = kind.split("/")
        yield f"{args.domain}/{name}/{package}::msg::dds_::{type_name}_/*", ATTACHMENT


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("namespace")
    parser.add_argument("--lane", choices=["plain", "carla", "both"], default="plain")
    parser.add_argument("--domain", type=int, default=0)
    for name, default in (("rate", 20.0), ("start", 100.0), ("speed", 1.0), ("duration", 1e9)):
        parser.add_argument(f"--{name}", type=float, default=default)
    for name in ("pause", "jump"):
        parser.add_argument(f"--{name}", type=float, nargs=2, default=(1e9, 0.0))
    args = parser.parse_args()
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", json.dumps([args.endpoint]))
    session = zenoh.open(config)
    begun = time.monotonic()
    now_s, last, told, jumped, next_world, ticks = args.start, begun, -1, False, begun, 0
    while (wall := time.monotonic() - begun) < args.duration:
        paused = args.pause[0] <= wall < sum(args.pause)
        now_s += 0.0 if paused else (begun + wall - last) * args.speed
        last = begun + wall
        if wall >= args.jump[0] and not jumped:
            now_s, jumped = max(now_s + args.jump[1], 0.0), True
        clock = clock_of(now_s)
        messages = {("/clock", CLOCK): clock}
        if last >= next_world:
            next_world += 1.0 / WORLD_HZ
            messages |= world(clock)
        for (topic, kind), message in messages.items():
            payload = bytes(STORE.serialize_cdr(message, kind))
            for key, attachment in keys(topic, kind, args):
                session.put(key, payload, attachment=attachment)
        if int(wall) > told:
            told = int(wall)
            print(json.dumps({"now": round(now_s, 3), "wall": round(wall, 3), "ticks": ticks}), flush=True)
        ticks += 1
        time.sleep(max(begun + ticks / args.rate - time.monotonic(), 0.0))


main()
