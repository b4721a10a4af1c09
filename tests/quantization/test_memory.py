"""Calibration holds one batch at a time: memory does not grow with the number of samples."""

import subprocess
import sys

#: Calibrates a convolutional network on 32x32 images that are drawn batch by batch; prints
#: the peak of resident memory in KiB.
PROGRAM = """
import resource, sys
import torch
from torch import nn
from edgekit.quantization.graph import calibrate
from edgekit.signature import Signature, TensorSpec

torch.set_num_threads(1)
count, batch = int(sys.argv[1]), 32
network = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(32, 32, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 32 * 32, 10),
).eval()
image = TensorSpec(name="input", dtype="float32", dims=("batch", 3, 32, 32))
logits = TensorSpec(name="output", dtype="float32", dims=("batch", 10))
random = torch.Generator().manual_seed(0)
batches = (
    (torch.randn(batch, 3, 32, 32, generator=random),) for _ in range(count // batch)
)
calibrate(network, batches, Signature(inputs=(image,), outputs=(logits,)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(samples: int) -> int:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(samples)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def test_1024_samples_need_no_more_memory_than_32() -> None:
    """At most a tenth more resident memory at the peak of the entire process."""
    few, many = peak(32), peak(1024)
    assert many <= 1.1 * few
