"""Outputs of the graph of a model folder, by a plain ONNX Runtime: python graph_peer.py DIR INPUTS

INPUTS is a JSON file, {name: {"type": "f32" | "i64", "dims": […], "data": […]}}. Prints one JSON object, {name: numbers}.
"""

import json
import sys

import numpy as np
import onnxruntime as ort

folder, inputs = sys.argv[1:]
with open(inputs) as file:
    given = json.load(file)
types = {"f32": np.float32, "i64": np.int64}
feeds = {name: np.array(one["data"], types[one["type"]]).reshape(one["dims"]) for name, one in given.items()}
session = ort.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
names = [node.name for node in session.get_outputs()]
print(json.dumps({name: found.reshape(-1).tolist() for name, found in zip(names, session.run(names, feeds))}))
