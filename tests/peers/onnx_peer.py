"""Scores of the portable graph of a model folder, by a plain ONNX Runtime: python onnx_peer.py DIR TOKEN,TOKEN,…

Prints one JSON list a position: the scores after it. Knows of this project only the names of the inputs:
token ids, lengths, and a cache per layer, all read from the graph itself.
"""

import json
import sys

import numpy as np
import onnxruntime as ort


def main() -> None:
    folder, tokens = sys.argv[1], [int(token) for token in sys.argv[2].split(",")]
    session = ort.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
    caches = {}
    for node in session.get_inputs():
        if node.name.startswith("past_key_values."):
            _, heads, _, width = node.shape
            caches[node.name] = np.zeros([1, heads, 0, width], np.float32)
    names = [node.name for node in session.get_outputs()]
    for end, token in enumerate(tokens, 1):
        feeds = {
            "input_ids": np.array([[token]], np.int64),
            "seqlens_k": np.array([end - 1], np.int32),
            "total_sequence_length": np.array(end, np.int32),
            **caches,
        }
        found = dict(zip(names, session.run(names, feeds)))
        print(json.dumps(found["logits"].reshape(-1).tolist()))
        for name in caches:
            caches[name] = found[name.replace("past_key_values", "present")]


main()
