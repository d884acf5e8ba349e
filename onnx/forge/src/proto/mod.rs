//! Wire structs of the two protobuf formats the forge touches: ONNX, which it writes, and TensorFlow's GraphDef, which it reads.
//!
//! They are written by hand for the fields used, with the field numbers of the published `.proto` files, so that no protobuf
//! compiler runs at build time and a reader sees the whole format on two pages. Unknown fields are skipped by prost.

pub mod onnx;
pub mod tensorflow;
