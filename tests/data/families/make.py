#!/usr/bin/env python3
"""Makes a tiny random model of every architecture that the forge imports, and says what PyTorch computes with it: the expected
values of tests/families.rs.

    python3 -m venv target/torch && target/torch/bin/pip install numpy==2.4.6 torch==2.15.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0
    target/torch/bin/python tests/data/families/make.py

Each folder is as one that is published: config.json, model.safetensors (or shards with an index), tokenizer.json. Nothing in it is
special to this project, and transformers reads it back by itself before it computes, in float32, from the weights as they were saved.
The weights are random everywhere, also where training begins with ones and zeros (norms, biases), because a forgotten norm weight of
one or bias of zero would not show.

| folder | what it has that the others have not |
|---|---|
| llama | grouped queries, tied head, bfloat16 |
| llama3-rope | the stretched rotary table of Llama 3.1 and 3.2, head of its own |
| qwen2 | biases of q, k, v; head of its own; two shards with an index |
| qwen3 | norms of q and k; heads wider than the stream; `rope_parameters` as new configs write it |
| gemma3 | norms before and after both halves, (1 + w); one layer with a window and a rotary base of its own; GELU; scaled embedding |
| gpt2 | learned positions, LayerNorm, fused q, k, v stored input-major, float32, the published file's names and mask buffers |
| gpt_neo | unscaled attention, a layer with a window, no bias of q, k, v |
| bert | an encoder: both directions, segment and position embeddings, WordPiece, pooling stated beside it |

reference.json: `ids` are the tokens of `prompt`; `logits` are the scores at `positions` of ids followed by `continuation`;
`greedy` is what follows the prompt, and `smallest_margin` the smallest lead of the first choice on the way.
"""
import json
import math
import pathlib
import shutil
import sys

import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SEEDS = range(20261126, 20261326)
VOCAB, CONTEXT, WINDOW = 96, 64, 8
#: Greedy words worth comparing: first choices that lead by more than rounding, different ones, none that ends the answer.
LEAST_MARGIN, LEAST_DISTINCT, FIRST_WORD = 0.02, 4, 4
PROMPT = "the car stops at the red light, and the driver looks left and right before it turns into the narrow street."
CONTINUATION, GREEDY, SCORED = 2, 12, 8
HERE = pathlib.Path(__file__).parent
CORPUS = [
    PROMPT, "slow down, a child is near the road.", "turn left at the next street and stop before the light.",
    "the light is green, the street is free, drive on.", "what does the driver see? a bus, two cars and a bicycle.",
    "keep to the right lane; the speed is 30.", "it rains, so the distance must be longer."]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,;?'"]
#: Strings whose tokens are compared as well.
TEXTS = ["the light", " two  spaces", "30 cars, 2 left?", "driver's street;", "zzz qqq", "at"]

SHAPE = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": CONTEXT}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SHAPE, **HEADS, **ENDS, "hidden_act": "silu",
         "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False}
CONFIGS = {
    "llama": {**LLAMA, "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
    "llama3-rope": {**LLAMA, "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "head_dim": 16,
                    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                     "original_max_position_embeddings": 16}},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **SHAPE, **HEADS, **ENDS, "hidden_act": "silu",
              "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": CONTEXT,
              "max_window_layers": 2, "tie_word_embeddings": False, "torch_dtype": "float16"},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **SHAPE, **ENDS, "num_attention_heads": 3,
              "num_key_value_heads": 1, "head_dim": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6, "attention_bias": False,
              "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "tie_word_embeddings": True, "dtype": "bfloat16"},
    "gemma3": {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", **SHAPE, "num_attention_heads": 2,
               "num_key_value_heads": 1, "head_dim": 48, "query_pre_attn_scalar": 24, "hidden_activation": "gelu_pytorch_tanh",
               "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window": WINDOW,
               "layer_types": ["sliding_attention", "full_attention"], "attention_bias": False, "attn_logit_softcapping": None,
               "final_logit_softcapping": None, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "bfloat16"},
    "gpt2": {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 64, "n_inner": 96, "n_layer": 2,
             "n_head": 4, "n_positions": CONTEXT, "n_ctx": CONTEXT, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
             "bos_token_id": 2, "eos_token_id": 2},
    "gpt_neo": {"architectures": ["GPTNeoForCausalLM"], "model_type": "gpt_neo", "vocab_size": VOCAB, "hidden_size": 64,
                "intermediate_size": 96, "num_layers": 2, "num_heads": 4, "max_position_embeddings": CONTEXT, "window_size": WINDOW,
                "attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"],
                "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 2, "eos_token_id": 2,
                "torch_dtype": "float16"},
    "bert": {"architectures": ["BertModel"], "model_type": "bert", "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96,
             "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "type_vocab_size": 2,
             "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0, "position_embedding_type": "absolute",
             "torch_dtype": "float16"},
}
#: Bytes of a shard for the folder that has several.
SHARDS = {"qwen2": 80_000}


def byte_level(first):
    """Bytes as GPT-2 writes them, over the few characters that a vocabulary of 96 has room for."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=first, initial_alphabet=[*LETTERS, "Ġ"], show_progress=False))
    return tokenizer


def sentence_piece():
    """As Gemma's: spaces are U+2581, nothing is split before the merges, unknown characters would be bytes."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    words = [word if at == 0 else " " + word for line in CORPUS for at, word in enumerate(line.split(" "))]
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"], initial_alphabet=[*LETTERS, "▁"], show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return tokenizer


def word_piece():
    """BERT's: lower case, words split into letters and what follows letters."""
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*"abcdefghijklmnopqrstuvwxyz", *".,;?'"]
    words = ["the", "light", "driver", "street", "left", "right", "stop", "##s", "##ing", "##ed"]
    pieces = [*first, *letters, *("##" + c for c in "abcdefghijklmnopqrtuvwxyz"), *words]
    pieces += ["car", "bus", "road", "is", "and", "a1", "##1", "##2", "2"]
    pieces = list(dict.fromkeys(pieces))
    assert len(pieces) <= VOCAB, len(pieces)
    tokenizer = tokenizers.Tokenizer(models.WordPiece({piece: id for id, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(first)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    # As the published sentence encoder's file: both would change the input, so a reader has to switch them off.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_id=0, pad_token="[PAD]")
    return tokenizer


def randomize(model):
    """Random values in every parameter, of a size that keeps the activations near one."""
    for name, parameter in model.named_parameters():
        norm = name.endswith("weight") and any(word in name for word in ("norm", "Norm", "ln_"))
        value = torch.randn(parameter.shape)
        if norm:
            value = 0.3 * value + (0.0 if model.config.model_type == "gemma3_text" else 1.0)
        elif parameter.dim() == 1:
            value = 0.3 * value
        elif any(word in name for word in ("embed", "wte", "wpe", "lm_head")):
            # Gemma multiplies by the square root of the width itself.
            value *= 0.05 if model.config.model_type == "gemma3_text" else 0.2
        else:
            value *= 1.2 / math.sqrt(64 if "64" in str(tuple(parameter.shape)) else 96)
            if model.config.model_type == "gpt_neo" and (".q_proj" in name or ".k_proj" in name):
                value *= 0.5  # not divided by the root of the head's width
        parameter.data.copy_(value)


def save(name, config, folder):
    """The folder as it would be published. config.json is written by hand, as published ones are, not as this transformers writes it."""
    kind = getattr(transformers, config["architectures"][0])
    model = kind(kind.config_class(**config))
    randomize(model)
    dtype = getattr(torch, config.get("torch_dtype") or config.get("dtype") or "float32")
    model = model.to(dtype)
    if name in SHARDS:
        model.save_pretrained(folder, max_shard_size=SHARDS[name])
        (folder / "generation_config.json").unlink(missing_ok=True)
    else:
        tied = config.get("tie_word_embeddings", True)
        tensors = {key: value.contiguous() for key, value in model.state_dict().items() if not (tied and key == "lm_head.weight")}
        if name == "gpt2":  # The published file: no prefix, and the causal masks of each layer as if they were weights.
            tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}
            tensors["h.0.attn.bias"] = torch.tril(torch.ones(CONTEXT, CONTEXT)).view(1, 1, CONTEXT, CONTEXT)
        if name == "bert":
            tensors["embeddings.position_ids"] = torch.arange(CONTEXT).view(1, -1)
            (folder / "1_Pooling").mkdir()
            (folder / "1_Pooling" / "config.json").write_text(json.dumps(
                {"word_embedding_dimension": config["hidden_size"], "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
                 "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}, indent=2) + "\n")
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return kind


def rounded(tensor):
    return [round(value, 6) for value in tensor.tolist()]


def language_reference(model, tokenizer, ids):
    """Scores of the last positions, all at once, and what a greedy reader would add."""
    prompt = len(ids) - CONTINUATION
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
        greedy, margins, sequence = [], [], ids[:prompt]
        for _ in range(GREEDY):
            last = model(torch.tensor([sequence])).logits[0, -1]
            first, second = torch.topk(last, 2).values.tolist()
            margins.append(first - second)
            greedy.append(int(last.argmax()))
            sequence.append(greedy[-1])
    positions = list(range(prompt - SCORED, len(ids)))
    return {"prompt": PROMPT, "ids": ids[:prompt], "continuation": ids[prompt:], "positions": positions,
            "logits": [rounded(logits[position]) for position in positions], "greedy": greedy, "smallest_margin": round(min(margins), 6),
            "texts": [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in TEXTS]}


def encoder_reference(model, tokenizer):
    """Hidden states of each text alone, and their mean of length one."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = []
    for text in ["The driver stops.", PROMPT[:40], "Right, the bus is near a road and 2 cars?", "x"]:
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).last_hidden_state[0]
        pooled = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        texts.append({"text": text, "ids": ids, "hidden": [rounded(row) for row in (hidden if len(texts) == 0 else hidden[:1])],
                      "pooled": rounded(pooled)})
    return {"texts": texts}


def make(name, config, seed):
    """One folder of one seed; returns its reference."""
    torch.manual_seed(seed)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    is_encoder = config["model_type"] == "bert"
    if is_encoder:
        tokenizer = word_piece()
    elif config["model_type"] == "gemma3_text":
        tokenizer = sentence_piece()
    elif config["model_type"] in ("gpt2", "gpt_neo"):
        tokenizer = byte_level(["<pad>", "<unk>", "<|endoftext|>"])
    else:
        tokenizer = byte_level(["<pad>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = save(name, config, folder)
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    if is_encoder:
        reference = encoder_reference(model, tokenizer)
    else:
        ids = tokenizer.encode(PROMPT, add_special_tokens=config["model_type"] == "gemma3_text").ids
        assert WINDOW * 3 < len(ids) < CONTEXT - CONTINUATION - GREEDY, len(ids)
        tail = torch.randint(FIRST_WORD, VOCAB, (CONTINUATION,)).tolist()
        reference = language_reference(model, tokenizer, ids + tail)
    about = {"made_by": "tests/data/families/make.py", "seed": seed, "torch": torch.__version__.split("+")[0],
             "transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "computed_in": "float32"}
    (folder / "reference.json").write_text(json.dumps({**about, **reference}, ensure_ascii=False, separators=(",", ":")) + "\n")
    return reference


def is_telling(reference):
    greedy = reference["greedy"]
    return (reference["smallest_margin"] >= LEAST_MARGIN and len(set(greedy)) >= LEAST_DISTINCT and min(greedy) >= FIRST_WORD)


def main():
    for name in sys.argv[1:] or CONFIGS:
        config = CONFIGS[name]
        for seed in SEEDS:
            reference = make(name, config, seed)
            if config["model_type"] == "bert" or is_telling(reference):
                break
        else:
            raise SystemExit(f"{name}: no seed of {SEEDS} gives greedy words worth comparing")
        bytes_written = sum(file.stat().st_size for file in (HERE / name).rglob("*.*"))
        told = "".join(f", {key} {reference[key]}" for key in ("smallest_margin", "greedy") if key in reference)
        print(f"{name}: seed {seed}, {bytes_written} bytes{told}")


if __name__ == "__main__":
    main()
