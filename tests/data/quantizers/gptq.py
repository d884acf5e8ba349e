"""Reference for forge's GPTQ: the paper's own form, with the inverse Hessian, in numpy.

Writes gptq.safetensors: weights [rows, columns], gram [columns, columns] = sum of x x^T, scales and zeros of plain rounding
[rows, columns/32], and the codes [rows, columns] that GPTQ gives on that grid in descending order of the diagonal with 1 % damping.

    python3 gptq.py        numpy 2.4.6
"""

import json

import numpy as np

ROWS, COLUMNS, TOKENS, BLOCK, DAMPING = 12, 96, 300, 32, 0.01


def inputs(rng):
    """Tokens whose channels move together and differ in size, one of them dead."""
    mixing = rng.normal(size=(COLUMNS, COLUMNS)) / np.sqrt(COLUMNS) + np.eye(COLUMNS)
    x = rng.normal(size=(TOKENS, COLUMNS)) @ mixing
    x *= np.exp(rng.normal(size=COLUMNS))
    x[:, 37] = 0
    return x


def spanning_grid(weights):
    """Step and zero point per block so that 0, the lowest and the highest weight lie on it."""
    blocks = weights.reshape(ROWS, -1, BLOCK)
    lowest, highest = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scales = ((highest - lowest) / 15).astype(np.float16).astype(np.float32)
    zeros = np.clip(np.rint(-lowest / scales), 0, 15)
    return scales, zeros


def gptq(weights, gram, scales, zeros):
    order = np.argsort(-np.diag(gram), kind="stable")
    hessian = gram.astype(np.float64)[order][:, order]
    hessian /= np.mean(np.diag(hessian))
    hessian += DAMPING * np.eye(COLUMNS)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    left = weights.astype(np.float64)[:, order]
    codes = np.zeros((ROWS, COLUMNS), np.uint8)
    for place, column in enumerate(order):
        scale, zero = scales[:, column // BLOCK], zeros[:, column // BLOCK]
        code = np.clip(np.rint(left[:, place] / scale + zero), 0, 15)
        codes[:, column] = code
        error = (left[:, place] - scale * (code - zero)) / upper[place, place]
        left[:, place + 1:] -= np.outer(error, upper[place, place + 1:])
    return codes


def write(path, tensors):
    names = {np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        begin = len(data)
        data += tensor.tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)


def main():
    rng = np.random.default_rng(7)
    x = inputs(rng)
    gram = (x.T @ x).astype(np.float32)
    weights = (rng.normal(size=(ROWS, COLUMNS)) / np.sqrt(COLUMNS)).astype(np.float32)
    scales, zeros = spanning_grid(weights)
    codes = gptq(weights, gram, scales, zeros)
    write("gptq.safetensors", {
        "gram": gram, "scales": scales, "weights": weights,
        "codes": codes, "zeros": zeros.astype(np.uint8),
    })


if __name__ == "__main__":
    main()
