"""TFLite files: export, quantization, and the audit of what LiteRT executes."""
