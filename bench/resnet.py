"""The digits residual network: the zoo's resnet8 at its own width, nothing pruned, on
scikit-learn's digits.

edgekit run int8 --model bench/resnet.py:model --task bench/resnet.py:task --weights ...
--target cpu-onnx
"""

import torch

import edgekit
from edgekit.sources.resnet import resnet8
from edgekit.tasks.digits import digits


def model() -> torch.nn.Module:
    """Images [n, 1, 8, 8] to logits [n, 10], untrained."""
    return resnet8(channels=1, classes=10)


def task() -> edgekit.Task:
    """1,797 digits of 8x8 pixels."""
    return digits()
