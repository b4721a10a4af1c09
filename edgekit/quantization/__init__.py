"""Quantize once: our own PT2E quantizer, its calibration as plain data, and the quantized
graph rebuilt from it.
"""
