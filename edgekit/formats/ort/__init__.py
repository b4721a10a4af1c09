""".ort files: ONNX Runtime's format for phones."""
