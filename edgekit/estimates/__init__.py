"""Latency estimates for devices that are not here: operators timed on a device, a fit, and
the error on whole networks.
"""
