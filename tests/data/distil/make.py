#!/usr/bin/env python3
"""What PyTorch says about one batch of distillation with the tiny models of tests/data/families: reference.json.

    python3 -m venv target/torch && target/torch/bin/pip install numpy==2.4.6 torch==2.15.0 transformers==5.24.0 safetensors==0.8.0
    target/torch/bin/python tests/data/distil/make.py

Teacher is always `llama`. Models and gradients are those of transformers and autograd, in float32:

    L = a * CE(text, student) + (1 - a) * T^2 * KL(p_teacher || p_student), mean over positions; p = softmax(logits / T)

`gradients`: of parameters by the forge's names (query, key and value one below the other, every matrix [outputs, inputs], gradients by
a norm's factor itself), the length of the whole and its first elements.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
import transformers

HERE = pathlib.Path(__file__).parent
FAMILIES = HERE.parent / "families"
BATCH, LENGTH, FIRST = 2, 12, 4
ALPHA, TEMPERATURE = 0.3, 2.0
STUDENTS = ["qwen2", "qwen3", "gemma3", "gpt2"]


def load(name):
    model = transformers.AutoModelForCausalLM.from_pretrained(FAMILIES / name, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def gated(model):
    """Names of the forge and gradients, for the families that are built like a llama."""
    for index, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        name = f"layers.{index}."
        yield name + "qkv.weight", torch.cat([part.weight.grad for part in qkv])
        if attention.q_proj.bias is not None:
            yield name + "qkv.bias", torch.cat([part.bias.grad for part in qkv])
        if hasattr(attention, "q_norm"):
            yield name + "query_norm.weight", attention.q_norm.weight.grad
            yield name + "key_norm.weight", attention.k_norm.weight.grad
        yield name + "output.weight", attention.o_proj.weight.grad
        yield name + "gate.weight", mlp.gate_proj.weight.grad
        yield name + "up.weight", mlp.up_proj.weight.grad
        yield name + "down.weight", mlp.down_proj.weight.grad
        yield name + "input_norm.weight", layer.input_layernorm.weight.grad
        if hasattr(layer, "pre_feedforward_layernorm"):
            yield name + "post_attention_norm.weight", layer.post_attention_layernorm.weight.grad
            yield name + "ffn_norm.weight", layer.pre_feedforward_layernorm.weight.grad
            yield name + "post_ffn_norm.weight", layer.post_feedforward_layernorm.weight.grad
        else:
            yield name + "ffn_norm.weight", layer.post_attention_layernorm.weight.grad
    yield "final_norm.weight", model.model.norm.weight.grad
    if not model.config.tie_word_embeddings:
        yield "head.weight", model.lm_head.weight.grad
    yield "embedding.weight", model.model.embed_tokens.weight.grad


def gpt2(model):
    for index, layer in enumerate(model.transformer.h):
        name = f"layers.{index}."
        parts = {"qkv": layer.attn.c_attn, "output": layer.attn.c_proj, "up": layer.mlp.c_fc, "down": layer.mlp.c_proj}
        for part, linear in parts.items():
            yield f"{name}{part}.weight", linear.weight.grad.T
            yield f"{name}{part}.bias", linear.bias.grad
        for part, norm in {"input_norm": layer.ln_1, "ffn_norm": layer.ln_2}.items():
            yield f"{name}{part}.weight", norm.weight.grad
            yield f"{name}{part}.bias", norm.bias.grad
    yield "final_norm.weight", model.transformer.ln_f.weight.grad
    yield "final_norm.bias", model.transformer.ln_f.bias.grad
    yield "embedding.weight", model.transformer.wte.weight.grad


torch.manual_seed(20261126)
tokens = torch.randint(3, 96, (BATCH, LENGTH + 1))
ids, targets = tokens[:, :-1], tokens[:, 1:].flatten()
with torch.no_grad():
    teacher = load("llama")(ids).logits.flatten(0, 1)
result = {"ids": ids.flatten().tolist(), "targets": targets.tolist(), "batch": BATCH, "length": LENGTH, "alpha": ALPHA,
          "temperature": TEMPERATURE, "students": {}}
for name in STUDENTS:
    model = load(name)
    logits = model(ids).logits.flatten(0, 1)
    entropy = F.cross_entropy(logits, targets)
    soft = [F.log_softmax(x / TEMPERATURE, -1) for x in (logits, teacher)]
    divergence = F.kl_div(*soft, reduction="batchmean", log_target=True)
    loss = ALPHA * entropy + (1 - ALPHA) * TEMPERATURE**2 * divergence
    loss.backward()
    gradients = gpt2(model) if name == "gpt2" else gated(model)
    result["students"][name] = {
        "cross_entropy": entropy.item(),
        "divergence": divergence.item(),
        "loss": loss.item(),
        "gradients": {n: {"norm": g.norm().item(), "first": g.flatten()[:FIRST].tolist()} for n, g in gradients},
    }
(HERE / "reference.json").write_text(json.dumps(result, indent=1) + "\n")
