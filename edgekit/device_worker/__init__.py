"""What runs on a device: the worker, its frames, its runtimes.

Python 3.9 or later, the standard library, numpy and one runtime; nothing of edgekit.
"""
