"""ONNX Runtime's own quantizer on our graph and our samples: python ort.py MODEL SAMPLES OUT static|dynamic|int4 full|reduced

MODEL and OUT are ONNX files. SAMPLES is a folder with samples.json, a list of runs, each a list of inputs (name, type, dims, offset in
bytes), and samples.bin with their elements; only `static` reads it. Everything that is not chosen here is the quantizer's default;
`reduced` asks for 7 bits of weights, which its documentation recommends for computers with AVX2 and no VNNI. `int4` are blocks of 32
weights with a scale and a zero point, to the nearest, multiplied with activations of 8 bits: what our fused graphs do.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

TYPES = {"f32": np.float32, "i64": np.int64}


class Samples(CalibrationDataReader):
    """The runs, one after the other."""

    def __init__(self, folder: Path) -> None:
        runs = json.loads((folder / "samples.json").read_text())
        data = np.memmap(folder / "samples.bin", np.uint8, "r")
        self.feeds = iter([{one["name"]: tensor(data, one) for one in run} for run in runs])

    def get_next(self) -> dict | None:
        return next(self.feeds, None)


def tensor(data: np.ndarray, about: dict) -> np.ndarray:
    """A view of the file."""
    kind = np.dtype(TYPES[about["type"]])
    begin = about["offset"]
    count = int(np.prod(about["dims"]))
    return data[begin : begin + count * kind.itemsize].view(kind).reshape(about["dims"])


def main() -> None:
    model, samples, out, form, width = sys.argv[1:]
    if form == "int4":
        # Imported here: only this quantizer needs onnx-ir.
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(onnx.load(model), block_size=32, is_symmetric=False, accuracy_level=4)
        quantizer.process()
        quantizer.model.save_model_to_file(out, False)
        return
    options = {"per_channel": True, "reduce_range": width == "reduced", "weight_type": QuantType.QInt8}
    if form == "dynamic":
        # Its shape inference does not know the fused operators.
        quantize_dynamic(model, out, extra_options={"DefaultTensorType": TensorProto.FLOAT}, **options)
        return
    quantize_static(
        model,
        out,
        Samples(Path(samples)),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        calibrate_method=CalibrationMethod.MinMax,
        **options,
    )


main()
