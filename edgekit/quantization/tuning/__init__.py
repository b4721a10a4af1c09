"""Changes to weights and scales that restore accuracy: equalization, smoothing, rounding,
biases.
"""
