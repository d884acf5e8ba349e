"""Writes fastcdr.json: the messages of cdr_vectors.json as the real ROS 2 stack (rclpy, Fast-CDR) serializes them.

These bytes have what rosbags' lack: garbage in the padding and trailing bytes. Only packages that the wheels bring.
Needs pip install ros-jazzy-rclpy==7.1.6 ros-jazzy-rmw-fastrtps-cpp ros-jazzy-common-interfaces. Usage: python fastcdr.py
"""
import importlib
import json
import pathlib

from rclpy.serialization import serialize_message

here = pathlib.Path(__file__).resolve().parent


def build(cls, value):
    message = cls()
    for name, kind in cls.get_fields_and_field_types().items():
        if name in value:
            setattr(message, name, convert(kind, value[name]))
    return message


def convert(kind, value):
    element = kind.replace("sequence<", "").split(">")[0].split("[")[0].split(",")[0]
    if "/" in element:
        package, name = element.split("/")
        cls = getattr(importlib.import_module(package + ".msg"), name)
        return [build(cls, v) for v in value] if isinstance(value, list) else build(cls, value)
    if element == "octet":
        return [bytes([v]) for v in value] if isinstance(value, list) else bytes([value])
    return value


def main():
    out = {}
    for name, vector in json.loads((here / "cdr_vectors.json").read_text()).items():
        package, kind, message = name.split("/")
        try:
            cls = importlib.import_module(f"{package}.{kind}")
            for part in message.split("_"):  # Trigger.Request
                cls = getattr(cls, part)
        except (ImportError, AttributeError):
            continue
        out[name] = bytes(serialize_message(build(cls, vector["value"]))).hex()
    (here / "fastcdr.json").write_text(json.dumps(out, indent=0) + "\n")
    print(len(out), "messages")


main()
