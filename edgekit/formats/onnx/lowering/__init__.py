"""Lowering: rewrites a Q/DQ graph for the int8 kernels of ONNX Runtime."""
