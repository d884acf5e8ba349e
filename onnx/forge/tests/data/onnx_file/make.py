"""Writes third_party.onnx, third_party.bin and expected.json: constants in every form that ONNX has, as numpy understands them.

python make.py    needs onnx 1.23 and numpy 2.4; the files are committed, nothing runs this at test time.
"""

import json
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(7)
values = {
    "float_list": rng.normal(size=(2, 3)).astype(np.float32),
    "double_list": rng.normal(size=3),
    "int64_list": np.array([-1, 2**40, 7]),
    "int32_list": np.array([-5, 6], np.int32),
    "int8_list": np.array([-128, 127, 3], np.int8),
    "uint8_list": np.array([0, 255], np.uint8),
    "uint16_list": np.array([65535, 1], np.uint16),
    "bool_list": np.array([True, False, True]),
    "half_list": np.array([1.5, -0.1], np.float16),
    "uint32_list": np.array([2**32 - 1, 5], np.uint32),
    "uint64_list": np.array([2**63 + 1], np.uint64),
    "scalar": np.float32(0.25),
    "empty": np.zeros((0, 4), np.float32),
    "raw": rng.normal(size=(3, 2)).astype(np.float32),
    "external": rng.normal(size=(4, 5)).astype(np.float32),
}
initializers = []
for name, value in values.items():
    value = np.asarray(value)
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    if name.endswith("_list") or name == "scalar":
        initializers.append(helper.make_tensor(name, kind, value.shape, value.flatten().tolist()))
    else:
        initializers.append(numpy_helper.from_array(value, name))
int4 = helper.make_tensor("int4_list", TensorProto.INT4, [3], [-8, 7, 1])
initializers.append(int4)
initializers.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"stop", b"go"]))

external = next(tensor for tensor in initializers if tensor.name == "external")
(here / "third_party.bin").write_bytes(b"\xff" * 16 + external.raw_data)
external.ClearField("raw_data")
external.data_location = TensorProto.EXTERNAL
for key, entry in (("location", "third_party.bin"), ("offset", "16"), ("length", "80")):
    external.external_data.add(key=key, value=entry)

inner = helper.make_graph(
    [helper.make_node("Mul", ["x", "two"], ["twice"])],
    "then", [], [helper.make_tensor_value_info("twice", TensorProto.FLOAT, [2])],
    [numpy_helper.from_array(np.array([2.0], np.float32), "two")],
)
other = helper.make_graph(
    [helper.make_node("Neg", ["x"], ["minus"])], "else", [], [helper.make_tensor_value_info("minus", TensorProto.FLOAT, [2])]
)
nodes = [
    helper.make_node("If", ["condition"], ["y"], name="branch", then_branch=inner, else_branch=other),
    helper.make_node("Wiggle", ["y", ""], ["z"], name="unheard", domain="com.example", strength=[1, 2], mode="soft", table=int4),
]
graph = helper.make_graph(
    nodes, "third party",
    [helper.make_tensor_value_info("condition", TensorProto.BOOL, []), helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
    [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n"])],
    initializers,
    value_info=[helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
)
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 3)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="third party")
model.metadata_props.add(key="author", value="somebody")
(here / "third_party.onnx").write_bytes(model.SerializeToString(deterministic=True))

expected = {name: {"dims": list(np.shape(value)), "bytes": np.asarray(value).tobytes().hex()} for name, value in values.items()}
expected["int4_list"] = {"dims": [3], "bytes": "7801"}  # two's complement nibbles, the first one low: 8, 7 | 1
(here / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
