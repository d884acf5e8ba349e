//! A model that runs: ONNX Runtime sessions, text, audio, vision.
