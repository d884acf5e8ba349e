"""Writes rihs01.json: the type hash of every definition in ../../msg, by ROS 2's own generator.

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
from rosidl_generator_type_description import generate_type_hash

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent / "msg"


def uses(folder):
    """Packages that the definitions of a folder name."""
    text = "\n".join(p.read_text() for p in folder.glob("msg/*.msg"))
    return set(re.findall(r"^\s*([a-z][a-z0-9_]*)/[A-Z]", text, re.M)) - {folder.name.split("@")[0]}


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
            (base / "msg").mkdir(parents=True)
            idl = []
            for path in sorted(folder.glob("msg/*.msg")):
                shutil.copy(path, base / "msg" / path.name)
                with contextlib.redirect_stdout(io.StringIO()):
                    convert_msg_to_idl(base, package, pathlib.Path("msg") / path.name, base / "msg")
                idl.append(f"{base}:msg/{path.stem}.idl")
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
                found = [t["hash_string"] for t in description["type_hashes"] if t["type_name"] == name]
                hashes[name.replace(package, folder.name, 1)] = found[0]
            made.setdefault(package, base)
    (here / "rihs01.json").write_text(json.dumps(dict(sorted(hashes.items())), indent=0) + "\n")
    print(len(hashes), "hashes")


main()
