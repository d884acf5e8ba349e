"""Writes rihs01.json: the type hash of every definition and service in ../../msg, by ROS 2's own generator.

Needs the Python packages rosidl_adapter and rosidl_generator_type_description (pip install ros-jazzy-rclpy==7.1.6
ros-jazzy-common-interfaces brings them). Usage: python hashes.py
"""
import contextlib
import io
import json
import pathlib
import re
import shutil
import tempfile

from rosidl_adapter.msg import convert_msg_to_idl
from rosidl_adapter.srv import convert_srv_to_idl
from rosidl_generator_type_description import generate_type_hash

CONVERT = {"msg": convert_msg_to_idl, "srv": convert_srv_to_idl}
here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent / "msg"


def uses(folder):
    """Packages that the definitions of a folder name."""
    text = "\n".join(p.read_text() for p in [*folder.glob("msg/*.msg"), *folder.glob("srv/*.srv")])
    found = set(re.findall(r"^\s*([a-z][a-z0-9_]*)/[A-Z]", text, re.M))
    if (folder / "srv").exists():
        found.add("service_msgs")  # The event of a service contains a ServiceEventInfo.
    return found - {folder.name.split("@")[0]}


def order():
    """Package folders, each after those it uses."""
    done, waiting = [], sorted(root.iterdir())
    while waiting:
        known = {p.name.split("@")[0] for p in done}
        ready = [p for p in waiting if uses(p) <= known]
        assert ready, waiting
        done += ready
        waiting = [p for p in waiting if p not in ready]
    return done


def main():
    hashes, made = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        for folder in order():
            package = folder.name.split("@")[0]
            base = pathlib.Path(temporary) / folder.name / package
            idl = []
            for path in sorted([*folder.glob("msg/*.msg"), *folder.glob("srv/*.srv")]):
                kind = path.parent.name
                (base / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, base / kind / path.name)
                with contextlib.redirect_stdout(io.StringIO()):
                    CONVERT[kind](base, package, pathlib.Path(kind) / path.name, base / kind)
                idl.append(f"{base}:{kind}/{path.stem}.idl")
            arguments = base / "arguments.json"
            arguments.write_text(json.dumps({
                "package_name": package,
                "output_dir": str(base),
                "idl_tuples": idl,
                "include_paths": [f"{name}:{where}" for name, where in made.items() if name != package],
            }))
            for file in generate_type_hash(str(arguments)):
                description = json.loads(pathlib.Path(file).read_text())
                name = description["type_description_msg"]["type_description"]["type_name"]
                for one in description["type_hashes"]:
                    # A service's file also has the hashes of its request, response and event.
                    if one["type_name"] == name or one["type_name"].startswith(f"{name}_"):
                        hashes[one["type_name"].replace(package, folder.name, 1)] = one["hash_string"]
            made.setdefault(package, base)
    (here / "rihs01.json").write_text(json.dumps(dict(sorted(hashes.items())), indent=0) + "\n")
    print(len(hashes), "hashes")


main()
