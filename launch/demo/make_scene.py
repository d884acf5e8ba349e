#!/usr/bin/env python3
"""Makes the recording the demo's vehicle lives in: objects, traffic lights and odometry as JSON Lines.

    python3 launch/demo/make_scene.py

A straight road along x of the frame `map`, the vehicle driving on y = 0. Its speed is a fixed recording of what a
driver would have done on the advice: nothing feeds back. Only fields that differ from their defaults are written, and
no stamp: the player stamps each message when it plays it. The format is described in README.md beside this file.

     0- 6 s  a pedestrian crosses 60 m ahead, another walks on the right, a car drives in front
     6 s     "please slow down": 8 m/s becomes 5.5 m/s      12 s  "don't stop": nothing does
    17-25 s  red light; 18 s "go faster" must be refused; a pedestrian and a cyclist cross
    26 s     "can you pull over": 2 m/s at the kerb until 34 s, where somebody waits
    34-46 s  on again behind a car, past a cyclist
"""
import json
import math
import pathlib

END_S = 46.0
# the vehicle's speed: (s, m/s), straight lines between
SPEED = [(0, 8), (7.5, 8), (10, 5.5), (13, 5.5), (15, 6.5), (17, 6.5), (21, 3), (24, 2), (25, 2), (26.3, 4.5),
         (27.2, 4.5), (31, 2), (34, 2), (38, 6), (46, 6)]
RED_S = (17.0, 25.0)
STOP_LINE_AHEAD_M = 38.0  # when the light turns red

PEDESTRIAN, BICYCLE, CAR = 7, 6, 1  # autoware_perception_msgs/ObjectClassification
SIZE = {PEDESTRIAN: (0.5, 0.6, 1.7), BICYCLE: (1.8, 0.6, 1.7), CAR: (4.5, 1.8, 1.5)}
RED, GREEN, CIRCLE, SOLID_ON = 1, 3, 1, 2  # autoware_perception_msgs/TrafficLightElement
LEFTWARDS, RIGHTWARDS, ONWARDS, TOWARDS_US = math.pi / 2, -math.pi / 2, 0.0, math.pi


def speed(t):
    """Speed at `t`, in m/s."""
    for (t0, v0), (t1, v1) in zip(SPEED, SPEED[1:]):
        if t <= t1:
            return v0 + (v1 - v0) * (t - t0) / (t1 - t0)
    return SPEED[-1][1]


def position(t):
    """Distance driven until `t`, in m: the integral of the straight pieces."""
    total = 0.0
    for (t0, _), (t1, _) in zip(SPEED, SPEED[1:]):
        end = min(t, t1)
        if end > t0:
            total += (speed(t0) + speed(end)) / 2 * (end - t0)
    return total


LIGHT_X = position(RED_S[0]) + STOP_LINE_AHEAD_M

# number, class, seen from and until (s), where it is when first seen (x, y in m), heading (rad), speed (m/s)
ROAD_USERS = [
    (1, PEDESTRIAN, 0.0, 8.0, (66.0, -5.0), LEFTWARDS, 1.4),
    (2, PEDESTRIAN, 0.0, 9.0, (78.0, -4.5), TOWARDS_US, 1.2),
    (3, CAR, 0.0, 15.0, (74.0, 0.0), ONWARDS, 5.5),
    (4, PEDESTRIAN, 19.0, 26.0, (LIGHT_X + 3, -5.4), LEFTWARDS, 1.5),
    (5, BICYCLE, 21.0, 25.5, (LIGHT_X + 4, 7.0), RIGHTWARDS, 3.0),
    (6, PEDESTRIAN, 26.0, 35.0, (position(31) + 15, -3.2), LEFTWARDS, 0.0),
    (7, CAR, 34.0, 46.0, (position(34) + 40, 0.0), ONWARDS, 5.5),
    (8, BICYCLE, 38.0, 46.0, (position(38) + 30, -3.0), ONWARDS, 4.0),
]


def orientation(heading):
    """A turn about z; written in full, because a quaternion of zeros is none."""
    return {"z": round(math.sin(heading / 2), 4), "w": round(math.cos(heading / 2), 4)}


def road_user(t, number, label, first_s, _until_s, start, heading, v):
    """One PredictedObject at `t`, its twist in its own axes."""
    driven = v * (t - first_s)
    x, y = start[0] + driven * math.cos(heading), start[1] + driven * math.sin(heading)
    length, width, height = SIZE[label]
    return {
        "object_id": f"00000000-0000-4000-8000-{number:012d}",
        "existence_probability": 0.9,
        "classification": [{"label": label, "probability": 0.9}],
        "kinematics": {
            "initial_pose_with_covariance": {"pose": {"position": {"x": round(x, 2), "y": round(y, 2)},
                                                      "orientation": orientation(heading)}},
            "initial_twist_with_covariance": {"twist": {"linear": {"x": v}}},
        },
        "shape": {"dimensions": {"x": length, "y": width, "z": height}},
    }


def objects(t):
    """autoware_perception_msgs/PredictedObjects at `t`."""
    seen = [user for user in ROAD_USERS if user[2] <= t < user[3]]
    return {"header": {"frame_id": "map"}, "objects": [road_user(t, *user) for user in seen]}


def lights(t):
    """autoware_perception_msgs/TrafficLightGroupArray at `t`."""
    colour = RED if RED_S[0] <= t < RED_S[1] else GREEN
    lamp = {"color": colour, "shape": CIRCLE, "status": SOLID_ON, "confidence": 0.95}
    return {"traffic_light_groups": [{"traffic_light_group_id": 1, "elements": [lamp]}]}


def odometry(t):
    """nav_msgs/Odometry at `t`."""
    return {
        "header": {"frame_id": "map"},
        "child_frame_id": "base_link",
        "pose": {"pose": {"position": {"x": round(position(t), 3)}, "orientation": {"w": 1.0}}},
        "twist": {"twist": {"linear": {"x": round(speed(t), 3)}}},
    }


def main():
    folder = pathlib.Path(__file__).parent
    for name, rate_hz, at in [("objects", 10, objects), ("lights", 5, lights), ("odometry", 20, odometry)]:
        path = folder / f"{name}.jsonl"
        with path.open("w", encoding="ascii") as out:
            for n in range(int(END_S * rate_hz)):
                t = n / rate_hz
                out.write(json.dumps({"t_s": round(t, 3), "data": at(t)}, separators=(",", ":")) + "\n")
        print(f"{path.name}: {int(END_S * rate_hz)} messages at {rate_hz} Hz, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
