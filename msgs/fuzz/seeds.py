"""Writes corpus/decode: one input for every known message as CDR, and JSON of it, every definition, some keys and tokens.

The fuzzer finds most of this by itself, but not soon. Usage: python seeds.py [FOLDER]
"""
import json
import pathlib
import re
import sys

here = pathlib.Path(__file__).resolve().parent
folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "corpus" / "decode"
CDR, IN_PLACE, JSON, TEXT, NAME = 0, 3, 5, 6, 7
HASH = "RIHS01_" + 64 * "0"
NAMES = [
    f"0/demo/chatter/std_msgs::msg::dds_::String_/{HASH}",
    "*/speech/*/*",
    f"@ros2_lv/0/fbf56a09465b206cdcdf6c69ab205219/0/1/MP/%/%demo/talker/%demo%chatter/std_msgs::msg::dds_::String_/{HASH}/:1:,10:,:,:,,",
    "@ros2_lv/0/fbf56a09465b206cdcdf6c69ab205219/0/0/NN/%enclave/%/talker",
    f"@/64b577/@ros2_lv/MP/chatter/std_msgs§msg§String/:1:1:0,5:typehash={HASH};",
    "std_srvs::srv::dds_::Trigger_",
    "/ego/llmasos/gate/verdict",
    33 * "\x10",
]


def structs(macro):
    """Places of the structs in a list of tests/types/mod.rs, by package module and struct."""
    text = (here.parent / "tests/types/mod.rs").read_text().split(f"macro_rules! {macro} ")[1].split("};")[0]
    return {path: n for n, path in enumerate(re.findall(r"<llmasos_msgs::(\w+::\w+)>", text))}


def write(name, what, choice, rest):
    (folder / re.sub(r"\W", "-", name)).write_bytes(bytes([what]) + choice.to_bytes(2, "little") + rest)


def main():
    folder.mkdir(parents=True, exist_ok=True)
    every, in_place = structs("every_type"), structs("every_type_in_place")
    for name, vector in json.loads((here.parent / "tests/data/cdr_vectors.json").read_text()).items():
        package, _, struct = name.split("/")
        path = re.sub(r"\W", "_", package) + "::" + struct.replace("_", "")
        cdr = bytes.fromhex(vector["cdr"])
        write(f"cdr-{name}", CDR, every[path], cdr)
        if path in in_place:
            write(f"view-{name}", IN_PLACE, in_place[path], cdr)
        if len(cdr) < 256:
            write(f"json-{name}", JSON, every[path], json.dumps(vector["value"]).encode())
    for path in [*here.parent.glob("msg/*/msg/*.msg"), *here.parent.glob("msg/*/srv/*.srv")]:
        write(f"text-{path.parts[-3]}-{path.name}", TEXT, 0, path.read_bytes())
    for n, name in enumerate(NAMES):
        write(f"name-{n}", NAME, 0, name.encode())
    print(len(list(folder.iterdir())), "inputs in", folder)


main()
