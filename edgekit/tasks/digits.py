"""The handwritten digits of scikit-learn: real data, installed with the package."""

import numpy
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from edgekit.task import Task

#: Share of the samples that are test data, and the seed of the split.
TEST_SHARE = 0.4
SEED = 0
#: The largest grey value in the data set.
WHITE = 16


def digits() -> Task:
    """1,797 handwritten digits of 8x8 pixels: 60 % train, 40 % test, stratified.

    Images are float32 [n, 1, 8, 8] from 0 to 1, labels int64 [n]. Calibration samples are
    training samples.
    """
    data = load_digits()
    images = (data.images[:, None] / WHITE).astype("float32")
    labels = data.target.astype("int64")
    train, test = train_test_split(
        numpy.arange(len(labels)),
        test_size=TEST_SHARE,
        random_state=SEED,
        stratify=labels,
    )
    return Task(
        name="digits",
        train=(images[train], labels[train]),
        test=(images[test], labels[test]),
        calibration=images[train],
        loss="cross_entropy",
        metric="top1",
        origin={
            "source": "sklearn.datasets.load_digits",
            "split": "stratified",
            "seed": SEED,
            "test_share": TEST_SHARE,
        },
    )
