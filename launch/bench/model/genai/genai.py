"""onnxruntime-genai on the portable graph of a model folder: one round of speeds, printed as one JSON object.

    genai.py FOLDER SCRATCH THREADS PROMPTS GENERATED DEPTHS        genai.py smollm2/ /tmp/genai 2 128,512 64 0,512

The graph stays as it is but for its two counters: onnxruntime-genai feeds an attention mask of ones instead of `seqlens_k` and
`total_sequence_length`, so four nodes in front derive them from it. The weights are the folder's own file.
"""
import json
import os
import pathlib
import shutil
import sys
import time

import onnx
import onnxruntime_genai as og
from onnx import TensorProto, helper

# Words that continue nothing: the text is only there to be counted.
TOKEN = 100
ROOM = 8


def mask_inputs(source, target):
    """Writes the graph with `attention_mask` instead of its two counters."""
    model = onnx.load(source, load_external_data=False)
    graph = model.graph
    kept = [given for given in graph.input if given.name not in ("seqlens_k", "total_sequence_length")]
    del graph.input[:]
    graph.input.extend(kept)
    graph.input.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, [1, "total"]))
    graph.initializer.extend([
        helper.make_tensor("mask.axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("mask.one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("mask.index", TensorProto.INT64, [], [1]),
    ])
    nodes = [
        helper.make_node("ReduceSum", ["attention_mask", "mask.axis"], ["mask.sum"], keepdims=0),
        helper.make_node("Sub", ["mask.sum", "mask.one"], ["mask.last"]),
        helper.make_node("Cast", ["mask.last"], ["seqlens_k"], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["mask.shape"]),
        helper.make_node("Gather", ["mask.shape", "mask.index"], ["mask.total"], axis=0),
        helper.make_node("Cast", ["mask.total"], ["total_sequence_length"], to=TensorProto.INT32),
    ]
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    target.write_bytes(model.SerializeToString())


def settings(config, threads):
    """genai_config.json. No token ends an answer: the last of the vocabulary stands for it."""
    return {
        "model": {
            "type": "llama", "context_length": config["context"], "vocab_size": config["vocab"],
            "bos_token_id": config["bos"] or 0, "eos_token_id": config["vocab"] - 1, "pad_token_id": config["vocab"] - 1,
            "decoder": {
                "filename": "model.onnx", "head_size": config["head_dim"], "hidden_size": config["hidden"],
                "num_attention_heads": config["heads"], "num_key_value_heads": config["kv_heads"], "num_hidden_layers": config["layers"],
                "session_options": {"intra_op_num_threads": threads},
                "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask",
                           "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
                "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
            },
        },
        "search": {"max_length": config["context"], "past_present_share_buffer": True},
    }


def generator(model, length):
    options = og.GeneratorParams(model)
    options.set_search_options(max_length=length, do_sample=False, past_present_share_buffer=True)
    return og.Generator(model, options)


def prefill(model, tokens):
    """Tokens per second; the first of two runs is not counted."""
    for _ in range(2):
        run = generator(model, tokens + ROOM)
        begun = time.perf_counter()
        run.append_tokens([TOKEN] * tokens)
        run.generate_next_token()
        rate = tokens / (time.perf_counter() - begun)
    return rate


def decode(model, depth, generated):
    run = generator(model, depth + generated + ROOM)
    run.append_tokens([TOKEN] * max(depth, 1))
    run.generate_next_token()
    begun = time.perf_counter()
    for _ in range(generated - 1):
        run.generate_next_token()
    return (generated - 1) / (time.perf_counter() - begun)


def main():
    folder, scratch = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
    threads, generated = int(sys.argv[3]), int(sys.argv[5])
    prompts, depths = ([int(word) for word in sys.argv[at].split(",")] for at in (4, 6))
    config = json.loads((folder / "llmasos.json").read_text())["config"]
    scratch.mkdir(parents=True, exist_ok=True)
    mask_inputs(folder / "model.onnx", scratch / "model.onnx")
    for weights in folder.glob("model.onnx.*"):
        copy = scratch / weights.name  # it must lie beside the graph, and a symbolic link does not count
        copy.unlink(missing_ok=True)
        try:
            os.link(weights, copy)
        except OSError:
            shutil.copyfile(weights, copy)
    (scratch / "genai_config.json").write_text(json.dumps(settings(config, threads)))
    model = og.Model(str(scratch))
    round_ = {f"prefill_{tokens}": prefill(model, tokens) for tokens in prompts}
    round_ |= {f"decode_{depth}": decode(model, depth, generated) for depth in depths}
    print(json.dumps(round_))


if __name__ == "__main__":
    main()
