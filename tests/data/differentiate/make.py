#!/usr/bin/env python3
"""What PyTorch says about the derivatives of every operator that onnx/forge/src/differentiate has a rule for: cases.json.

    python3 -m venv target/torch && target/torch/bin/pip install numpy==2.4.6 torch==2.15.0
    target/torch/bin/python tests/data/differentiate/make.py

A case is a function of tensors a, b, c; its loss is the sum of the result times a fixed random tensor w of the same shape, so that
every element of the result counts differently. `data` are the elements in order, float32; `gradients` are d loss / d input. Integer
inputs (rows to gather, conditions) are not differentiated. The Rust side builds the same function from ONNX operators by name.
"""
import json
import math
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(20261126)
CASES = {}


def r(*shape):
    return torch.randn(shape)


def positive(*shape):
    return torch.rand(shape) + 0.5


def case(name, function, *inputs):
    names = dict(zip("abc", inputs))
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    y = function(*leaves)
    w = torch.randn(y.shape)
    loss = (y * w).sum()
    loss.backward()
    CASES[name] = {
        "inputs": [tensor(n, x) for n, x in names.items()] + [tensor("w", w)],
        "loss": loss.item(),
        "gradients": [tensor(n, x.grad) for n, x in zip("abc", leaves) if x.is_floating_point()],
    }


def tensor(name, x):
    kind = "float" if x.is_floating_point() else "int"
    return {"name": name, "kind": kind, "shape": list(x.shape), "data": x.detach().flatten().tolist()}


# Element by element, with and without broadcasting.
case("add", lambda a, b: a + b, r(3, 4), r(3, 4))
case("add broadcast row", lambda a, b: a + b, r(3, 4), r(4))
case("add broadcast column", lambda a, b: a + b, r(2, 3, 4), r(3, 1))
case("add broadcast both", lambda a, b: a + b, r(3, 1), r(1, 4))
case("sub broadcast", lambda a, b: a - b, r(4), r(3, 4))
case("mul", lambda a, b: a * b, r(3, 4), r(3, 4))
case("mul broadcast", lambda a, b: a * b, r(2, 1, 4), r(3, 1))
case("mul itself", lambda a: a * a, r(3, 4))
case("mul scalar", lambda a, b: a * b, r(3, 4), r())
case("div", lambda a, b: a / b, r(3, 4), positive(3, 4))
case("div broadcast", lambda a, b: a / b, r(3, 4), positive(3, 1))
case("pow 3", lambda a: a**3, r(3, 4))
case("pow half", lambda a: a**0.5, positive(3, 4))
case("neg", lambda a: -a, r(3, 4))
case("sqrt", torch.sqrt, positive(3, 4))
case("reciprocal", torch.reciprocal, positive(3, 4))
case("exp", torch.exp, r(3, 4))
case("log", torch.log, positive(3, 4))
case("tanh", torch.tanh, r(3, 4))
case("erf", torch.erf, r(3, 4))
case("sigmoid", torch.sigmoid, r(3, 4))
case("where", lambda a, b, c: torch.where(a > 0, b, c), torch.tensor([[1, 0, 0, 1]] * 3), r(3, 4), r(4))
# Products.
case("matmul", torch.matmul, r(3, 4), r(4, 5))
case("matmul stack", torch.matmul, r(2, 3, 4), r(2, 4, 5))
case("matmul shared weight", torch.matmul, r(2, 3, 4), r(4, 5))
case("matmul stack broadcast", torch.matmul, r(2, 1, 3, 4), r(6, 4, 5))
case("gemm", lambda a, b, c: a @ b + c, r(3, 4), r(4, 5), r(5))
case("gemm transB", lambda a, b: a @ b.T, r(3, 4), r(5, 4))
case("gemm transA", lambda a, b: a.T @ b, r(4, 3), r(4, 5))
case("gemm scaled", lambda a, b, c: 0.5 * a.T @ b.T + 2 * c, r(4, 3), r(5, 4), r(3, 1))
# Along an axis.
case("softmax", lambda a: torch.softmax(a, -1), r(3, 4))
case("softmax axis 1", lambda a: torch.softmax(a, 1), r(2, 3, 4))
case("log softmax", lambda a: torch.log_softmax(a, -1), r(3, 4))
case("reduce sum", lambda a: a.sum((0, 2)), r(2, 3, 4))
case("reduce sum keep", lambda a: a.sum(1, keepdim=True), r(2, 3, 4))
case("reduce sum all", lambda a: a.sum(), r(2, 3))
case("reduce mean", lambda a: a.mean(-1), r(2, 3, 4))
case("reduce mean keep", lambda a: a.mean((0, 1), keepdim=True), r(2, 3, 4))
# Layout.
case("reshape", lambda a: a.reshape(6, 4) * 1, r(2, 3, 4))
case("transpose", lambda a: a.permute(2, 0, 1), r(2, 3, 4))
case("transpose default", lambda a: a.permute(2, 1, 0), r(2, 3, 4))
case("concat", lambda a, b, c: torch.cat((a, b, c), 1), r(2, 3), r(2, 1), r(2, 4))
case("split", lambda a: a[:, :1] * a[:, 3:], r(3, 4))
case("split one unused", lambda a: a[:, 1:3] ** 2, r(3, 4))
case("slice", lambda a: a[1:, -3:-1], r(3, 4))
case("slice steps", lambda a: a[::2, 1:4:2], r(5, 4))
case("slice backwards", lambda a: a.flip(1)[:, ::2], r(3, 5))
case("gather rows", lambda a, b: a[b], r(5, 3), torch.tensor([4, 0, 4, 2]))
case("gather rows of a batch", lambda a, b: a[b], r(5, 3), torch.tensor([[4, 0, 4], [2, 2, 1]]))
case("gather columns", lambda a, b: a[:, b], r(3, 5), torch.tensor([1, 1, 3]))
case("unsqueeze", lambda a: a[:, None], r(3, 4))
case("squeeze", lambda a: a[:, 0], r(3, 1, 4))
case("expand", lambda a: a.expand(2, 3, 4), r(3, 1))
# Compositions, where gradients meet and stay narrow.
case("rms norm", lambda a, b: a * torch.rsqrt((a * a).mean(-1, keepdim=True) + 1e-5) * b, r(3, 4), r(4))
case("layer norm", lambda a, b, c: F.layer_norm(a, (4,), b, c, 1e-5), r(3, 4), r(4), r(4))
case("silu gate", lambda a, b: F.silu(a) * b, r(3, 4), r(3, 4))
case("gelu", F.gelu, r(3, 4))
case("gelu tanh", lambda a: F.gelu(a, approximate="tanh"), r(3, 4))
case(
    "attention",
    lambda a, b, c: F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=1 / math.sqrt(4)),
    r(2, 2, 3, 4), r(2, 2, 3, 4), r(2, 2, 3, 4),
)
case("mean of a mean", lambda a: (a - a.mean(-1, keepdim=True)).pow(2).mean(-1), r(3, 4))

out = pathlib.Path(__file__).parent / "cases.json"
lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in CASES.items())
out.write_text("{\n" + lines + "\n}\n")
