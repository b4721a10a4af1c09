"""ONNX files quantized with Intel's neural-compressor."""
