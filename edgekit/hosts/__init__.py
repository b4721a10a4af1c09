"""Where files run: this machine, another environment, an emulated ARM, a device; each is
one way to start the worker of ``device_worker`` there.
"""
