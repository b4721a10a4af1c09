"""ONNX files: export, lowering, quantization, and the audit of what ONNX Runtime executes."""
