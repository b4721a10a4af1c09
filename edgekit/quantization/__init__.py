"""Post-training quantization of PyTorch graphs: a PT2E quantizer for edge runtimes.

A network is calibrated once. The calibration is plain data, from which the quantized graph
is rebuilt for every export format.
"""
