"""Latency estimates for devices that are not available here.

Operators are timed on the device, costs are fitted, and complete networks measure the error.
"""
