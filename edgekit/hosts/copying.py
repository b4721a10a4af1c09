"""Brings a file to a device through the worker itself: in blocks, under its hash, and on from where an earlier copy was cut off."""

import hashlib
import pathlib

import numpy

from edgekit.errors import RunnerError
from edgekit.hosts.process import WorkerProcess

#: How much of a file is sent at once; each block is answered in the process's own time limit.
BLOCK_BYTES = 1 << 20


def send(process: WorkerProcess, path: pathlib.Path, host: str) -> str:
    """The file's name in the host's store, once all of it is there and its hash is the same there and here."""
    try:
        with path.open("rb") as stream:
            whole = hashlib.file_digest(stream, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as problem:
        raise RunnerError(f"{path} cannot be read: {problem.strerror}.", fix="build it again") from problem
    name, doing = f"{whole}{path.suffix}", f"copying {path.name} to {host}"
    reply, _ = process.ask(doing, {"command": "have", "name": name})
    if reply["whole"]:
        return name
    there = int(reply["bytes"])
    with path.open("rb") as stream:
        stream.seek(there)
        while not reply["whole"]:
            block = numpy.frombuffer(stream.read(BLOCK_BYTES), dtype="uint8")
            if there > size:
                raise RunnerError(f"{host} has {there} bytes of {path.name}, which has {size}.", fix=f"edgekit hosts clean {host}")
            reply, _ = process.ask(doing, {"command": "put", "name": name, "offset": there, "whole": size}, {"block": block})
            there = int(reply["bytes"])
    return name
