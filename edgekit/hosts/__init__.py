"""The places where files run. There is one implementation of ``Host`` (``runner.WorkerHost``)
and, per kind of host, one way to start the worker of ``device_worker`` there.
"""
