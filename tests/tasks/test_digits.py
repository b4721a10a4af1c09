"""The built-in data set."""

import numpy

from edgekit.task import fingerprint
from edgekit.tasks.digits import digits


def test_the_split_is_fixed_and_stratified() -> None:
    """60 % train, 40 % test, every digit in the same share, and the same samples each time."""
    task, again = digits(), digits()
    train, test = task.need("train", "a test"), task.need("test", "a test")
    assert (len(train), len(test)) == (1078, 719)
    assert fingerprint(test) == fingerprint(again.need("test", "a test"))
    shares = [
        numpy.bincount(split.labels) / len(split)
        for split in (train, test)
        if split.labels is not None
    ]
    assert numpy.abs(shares[0] - shares[1]).max() < 0.002


def test_images_are_channels_first_and_scaled() -> None:
    """float32 [n, 1, 8, 8] from 0 to 1, ten classes."""
    task = digits()
    images = task.need("train", "a test").inputs["input"]
    assert images.dtype == numpy.float32
    assert images.shape[1:] == (1, 8, 8)
    assert (images.min(), images.max()) == (0, 1)
    assert task.classes == 10


def test_calibration_holds_no_test_data_by_construction() -> None:
    """Calibration is training data, and the origin of the split is recorded."""
    task = digits()
    calibration, train = (
        task.need("calibration", "a test"),
        task.need("train", "a test"),
    )
    assert numpy.array_equal(calibration.inputs["input"], train.inputs["input"])
    assert task.describe()["origin"]["seed"] == 0
