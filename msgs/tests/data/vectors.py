"""Writes cdr_vectors.json: for every definition in ../../msg a message, as values and as CDR, written by rosbags;
for a service its request and its response.

rosbags (pip install rosbags==0.11.9) is a CDR implementation of its own; its bytes equal Fast-CDR's except for the
padding, which it zeroes. Every scalar of a message has its own number, so that a swapped field shows. Usage: python vectors.py
"""
import itertools
import json
import pathlib
import re

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Nodetype

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent / "msg"
EMPTY = "structure_needs_at_least_one_member"
counter = itertools.count(1)


def scalar(kind):
    n = next(counter)
    if kind == "string":
        return f"s{n}"
    if kind == "bool":
        return bool(n % 2)
    if kind.startswith("float"):
        return n + 0.5
    if kind in ("byte", "octet", "uint8", "int8", "char"):
        return n % 100
    return n % 30000


def numbers(kind, count):
    if kind == "string":
        return [scalar(kind) for _ in range(count)]
    dtype = {"bool": bool, "byte": np.uint8, "octet": np.uint8, "char": np.uint8}.get(kind) or np.dtype(kind)
    return np.array([scalar(kind) for _ in range(count)], dtype=dtype)


def definitions(folder):
    """Names and texts of a package's messages, those of its services included."""
    for path in sorted(folder.glob("msg/*.msg")):
        yield f"msg/{path.stem}", path.read_text()
    for path in sorted(folder.glob("srv/*.srv")):
        request, response = re.split(r"^---$", path.read_text(), flags=re.M)
        yield f"srv/{path.stem}_Request", request
        yield f"srv/{path.stem}_Response", response


def rosbags_name(package, name):
    """rosbags knows no services: their messages are registered as messages, which changes no byte."""
    return f"{package}/msg/{name.split('/')[1]}"


class Store:
    def __init__(self, variant):
        self.store = get_typestore(Stores.EMPTY)
        add = {}
        for folder in sorted(root.iterdir()):
            package, _, of = folder.name.partition("@")
            other = root / f"{package}@{variant}"
            if of != variant and (of or (variant and other.exists())):
                continue
            for name, text in definitions(folder):
                add.update(get_types_from_msg(text, rosbags_name(package, name)))
        self.store.register(add)

    def fill(self, name):
        fields = self.store.fielddefs[name][1]
        values = {field: 0 if field == EMPTY else self.value(kind, what) for field, (kind, what) in fields}
        return self.store.types[name](**values)

    def value(self, kind, what):
        if kind == Nodetype.BASE:
            return scalar(what[0] if isinstance(what, tuple) else what)
        if kind == Nodetype.NAME:
            return self.fill(what)
        (inner, inner_what), size = what
        count = size if kind == Nodetype.ARRAY else min(2, size) if size else 2
        if inner == Nodetype.BASE:
            return numbers(inner_what[0] if isinstance(inner_what, tuple) else inner_what, count)
        return [self.value(inner, inner_what) for _ in range(count)]

    def plain(self, value):
        if hasattr(value, "__msgtype__"):
            fields = self.store.fielddefs[value.__msgtype__][1]
            return {f: self.plain(getattr(value, f)) for f, _ in fields if f != EMPTY}
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [self.plain(x) for x in value]
        return value.item() if isinstance(value, np.generic) else value

    def vector(self, name):
        global counter
        counter = itertools.count(1)  # For each message, so that a new definition leaves the others' vectors alone.
        message = self.fill(name)
        return {"value": self.plain(message), "cdr": bytes(self.store.serialize_cdr(message, name)).hex()}


def main():
    stores, vectors = {}, {}
    for folder in sorted(root.iterdir()):
        package, _, variant = folder.name.partition("@")
        if variant not in stores:
            stores[variant] = Store(variant)
        for name, _ in definitions(folder):
            vectors[f"{folder.name}/{name}"] = stores[variant].vector(rosbags_name(package, name))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(v, separators=(',', ':'))}" for name, v in vectors.items())
    (here / "cdr_vectors.json").write_text("{\n" + lines + "\n}\n")
    print(len(vectors), "vectors")


main()
