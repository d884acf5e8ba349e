"""A detector of coloured squares, and pictures of some: python make.py, in this folder, with onnx 1.23.2.

    image f32[1,96,96,3] ─ Conv 8 x 8 / 8 ─ Relu ─ Conv 3 x 3 ─ ThresholdedRelu ─┬─ Conv ─ Sigmoid ─► scores f32[1,144,91]
      red, green and blue that other colours do not have, and noise              └─ Conv + anchors ─► boxes  f32[1,144,4]

Red is a person, green a car, blue a bus. It is small, but it is one: what it finds is on the pictures. ThresholdedRelu stands for an
operator that a pass over graphs has never heard of.
"""

import hashlib
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CELL, CHANNELS, CLASSES = 96, 8, 16, 91
GRID = SIDE // CELL
# Red, green and blue with their labels.
COLOURS = {(230, 30, 20): 1, (20, 220, 40): 3, (30, 40, 225): 6}


def weights() -> dict[str, np.ndarray]:
    """All constants; the first three channels mean something, the others are noise that everything has to bear."""
    noise = np.random.default_rng(7)
    first = noise.normal(0, 0.002, (CHANNELS, 3, CELL, CELL))
    for colour in range(3):
        first[colour] = -0.75 / CELL**2
        first[colour, colour] = 1.5 / CELL**2
    second = noise.normal(0, 0.02, (CHANNELS, CHANNELS, 3, 3))
    for colour in range(3):
        second[colour] = 0
        second[colour, colour, 1, 1] = 1
    scores = noise.normal(0, 0.05, (CLASSES, CHANNELS, 1, 1))
    offset = np.full(CLASSES, -5.0)
    for colour, label in enumerate(COLOURS.values()):
        scores[label, colour] = 9
        offset[label] = -4
    rows = (np.arange(GRID) + 0.5) / GRID
    middle = np.stack(np.meshgrid(rows, rows, indexing="ij"), -1).reshape(-1, 2)
    anchors = np.concatenate([middle - 1 / GRID, middle + 1 / GRID], 1)[None]
    floats = {
        "scale": np.array(1 / 255),
        "first.weight": first,
        "first.bias": np.full(CHANNELS, 0.01),
        "second.weight": second,
        "second.bias": np.full(CHANNELS, 0.01),
        "scores.weight": scores,
        "scores.bias": offset,
        "boxes.weight": noise.normal(0, 0.02, (4, CHANNELS, 1, 1)),
        "anchors": anchors,
    }
    return {name: value.astype(np.float32) for name, value in floats.items()} | {
        "scores.shape": np.array([1, GRID * GRID, CLASSES]),
        "boxes.shape": np.array([1, GRID * GRID, 4]),
    }


def model() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Mul", ["image", "scale"], ["small"], "small"),
        node("Transpose", ["small"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "first.weight", "first.bias"], ["first"], "first", strides=[CELL, CELL]),
        node("Relu", ["first"], ["active"], "active"),
        node("Conv", ["active", "second.weight", "second.bias"], ["second"], "second", pads=[1, 1, 1, 1]),
        node("ThresholdedRelu", ["second"], ["features"], "features", alpha=0.0),
        node("Conv", ["features", "scores.weight", "scores.bias"], ["logits"], "logits"),
        node("Transpose", ["logits"], ["logits.rows"], "logits.rows", perm=[0, 2, 3, 1]),
        node("Reshape", ["logits.rows", "scores.shape"], ["logits.flat"], "logits.flat"),
        node("Sigmoid", ["logits.flat"], ["scores"], "scores"),
        node("Conv", ["features", "boxes.weight"], ["codes"], "codes"),
        node("Transpose", ["codes"], ["codes.rows"], "codes.rows", perm=[0, 2, 3, 1]),
        node("Reshape", ["codes.rows", "boxes.shape"], ["codes.flat"], "codes.flat"),
        node("Add", ["codes.flat", "anchors"], ["boxes"], "boxes"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "squares",
        [value("image", TensorProto.FLOAT, [1, SIDE, SIDE, 3])],
        [
            value("boxes", TensorProto.FLOAT, [1, GRID * GRID, 4]),
            value("scores", TensorProto.FLOAT, [1, GRID * GRID, CLASSES]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights().items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def picture(path: Path, seed: int) -> None:
    """Squares of all three colours, somewhere, on patches of grey."""
    chance = random.Random(seed)
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for row in range(0, SIDE, 24):
        for column in range(0, SIDE, 24):
            pixels[row : row + 24, column : column + 24] = chance.randrange(40, 200)
    for colour in COLOURS:
        size = chance.randrange(14, 30)
        row, column = chance.randrange(SIDE - size), chance.randrange(SIDE - size)
        pixels[row : row + size, column : column + size] = colour
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def main() -> None:
    here = Path(__file__).parent
    for folder, count, first in [("images", 6, 1), ("held-out", 4, 101)]:
        (here / folder).mkdir(exist_ok=True)
        for at in range(count):
            picture(here / folder / f"{at}.png", first + at)
    (here / "model").mkdir(exist_ok=True)
    graph = model().SerializeToString()
    (here / "model/model.onnx").write_bytes(graph)
    about = {
        "format": "llmasos-model/v1",
        "name": "squares",
        "role": "detector",
        "family": "ssd",
        "license": "Apache-2.0",
        "config": {"input": SIDE, "classes": CLASSES, "labels": "coco-90"},
        "sources": [],
        "recipe": {"kind": "make.py"},
        "files": {"model.onnx": {"sha256": hashlib.sha256(graph).hexdigest(), "bytes": len(graph)}},
    }
    (here / "model/llmasos.json").write_text(json.dumps(about, indent=2) + "\n")


main()
