"""Types for rosbags from the project's own .msg files: what a ROS 2 user builds, read by a parser that is not ours."""

import pathlib

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

ROOT = pathlib.Path("msgs/msg")
# Two packages of this name exist; the folder of the other one is called audio_common_msgs@ros-drivers.
OTHER_AUDIO = "audio_common_msgs@ros-drivers"


def typestore():
    """rosbags' own Jazzy types, and ours in place of what it does not know."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for path in sorted(ROOT.glob("*/msg/*.msg")):
        package = path.parts[-3]
        name = f"{package}/msg/{path.stem}"
        if package != OTHER_AUDIO and name not in store.types:
            types.update(get_types_from_msg(path.read_text(), name))
    store.register(types)
    return store


def plain(value):
    """A message as dictionaries, lists and numbers, so that it can be printed as JSON."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__ if name != "__msgtype__"}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
