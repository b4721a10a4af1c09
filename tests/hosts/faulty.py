"""Stands between edgekit and a real worker, and does what a bad cable, a full device or a
broken program does.

``python faulty.py LOG FAULT WHERE -- COMMAND...`` passes all bytes through and counts them
in LOG (two numbers: to the worker, from it). When WHERE bytes have gone by, FAULT happens
once:

cut-in, cut-out    the worker is killed, and so the stream ends (counted on what is sent, or
on what comes back) flip-in, flip-out  one bit of that byte is another one stop-out
nothing more comes back, and nothing ends flood-out          noise without end comes back
slow-out           every byte from there on comes a moment later none               nothing
"""

import os
import pathlib
import subprocess
import sys
import threading
import time

NOISE = bytes(range(256)) * 256


def main() -> None:
    """Start the command and pump both ways until it ends."""
    log, fault, where, _, *command = sys.argv[1:]
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin is not None and worker.stdout is not None
    counts = [0, 0]
    incoming = threading.Thread(
        target=pump,
        args=(0, worker, counts, (fault, int(where)), pathlib.Path(log)),
        daemon=True,
    )
    incoming.start()
    pump(1, worker, counts, (fault, int(where)), pathlib.Path(log))
    worker.kill()
    sys.exit(worker.wait() and 255)


def pump(
    way: int,
    worker: "subprocess.Popen[bytes]",
    counts: list[int],
    plan: tuple[str, int],
    log: pathlib.Path,
) -> None:
    """Pass bytes on, to the worker (way 0) or from it (way 1), and do the fault when its
    byte comes.
    """
    fault, where = plan
    assert worker.stdin is not None and worker.stdout is not None
    source, sink = (
        (0, worker.stdin.fileno()) if way == 0 else (worker.stdout.fileno(), 1)
    )
    kind, _, side = fault.partition("-")
    mine = side == ("in", "out")[way]
    while block := os.read(source, 1 << 16):
        if mine and counts[way] <= where < counts[way] + len(block):
            here = where - counts[way]
            block = damaged(kind, worker, block, here, sink)
        elif mine and kind == "slow" and counts[way] > where:
            time.sleep(0.05)
        counts[way] += len(block)
        log.write_text(f"{counts[0]} {counts[1]}")
        try:
            write(sink, block)
        except BrokenPipeError:
            break
    if way == 0:
        worker.stdin.close()


def damaged(
    kind: str,
    worker: "subprocess.Popen[bytes]",
    block: bytes,
    here: int,
    sink: int,
) -> bytes:
    """The block as the fault leaves it."""
    if kind == "flip":
        return block[:here] + bytes([block[here] ^ 1]) + block[here + 1 :]
    if kind == "cut":
        write(sink, block[:here])
        worker.kill()
        print("the line was cut", file=sys.stderr, flush=True)
        os._exit(255)
    if kind == "stop":
        time.sleep(3600)
    while kind == "flood":
        write(sink, NOISE)
    return block


def write(sink: int, block: bytes) -> None:
    """All of it."""
    while block:
        block = block[os.write(sink, block) :]


if __name__ == "__main__":
    main()
