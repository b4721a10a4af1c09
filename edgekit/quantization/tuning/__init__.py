"""Post-training changes of weights that restore accuracy lost by quantization.

Cross-layer equalization, SmoothQuant, learned rounding and bias correction; and the
diagnosis that selects among them.
"""
