"""Tasks: data that are checked when they are given, and calibration that never sees test
data.
"""

import numpy
import pytest

from edgekit.errors import TaskError
from edgekit.task import Split, Task, fingerprint, identity

RANDOM = numpy.random.default_rng(0)
X, Y = (
    RANDOM.standard_normal((40, 3, 4)).astype("float32"),
    numpy.arange(40) % 5,
)
XT, YT = (
    RANDOM.standard_normal((20, 3, 4)).astype("float32"),
    numpy.arange(20) % 5,
)


def refusal(**options: object) -> str:
    """The error for a task, as the user sees it."""
    with pytest.raises(TaskError) as caught:
        Task(**{"name": "t", "train": (X, Y), "test": (XT, YT), **options})
    assert caught.value.fix
    return str(caught.value)


def test_a_bare_array_is_called_input() -> None:
    """The splits are named arrays, the labels are kept, and classes are counted."""
    task = Task(name="t", train=(X, Y), test=(XT, YT))
    test = task.need("test", "a test")
    assert list(test.inputs) == ["input"]
    assert (len(test), len(test.take(3)), task.classes) == (20, 3, 5)


def test_calibration_comes_from_training_data_where_none_is_given() -> None:
    """Without calibration data the training inputs are used, never the test's."""
    task = Task(name="t", train=(X, Y), test=(XT, YT))
    assert numpy.array_equal(task.need("calibration", "x").inputs["input"], X)
    assert task.describe()["also_in_test"] == {"train": 0, "calibration": 0}


def test_calibration_on_test_data_is_refused() -> None:
    """A task that calibrates on its test samples is an error."""
    assert "20 of 20 calibration samples are also test samples" in refusal(
        calibration=XT
    )


def test_training_on_test_data_is_refused() -> None:
    """A task whose training samples are its test samples is an error."""
    assert "20 of 20 training samples are also test samples" in refusal(
        train=(XT, YT), calibration=X
    )


def test_calibration_never_sees_test_data() -> None:
    """Real data hold doubles: calibration samples that are also test samples are left out,
    wherever they are, and reported.
    """
    mixed = numpy.concatenate([XT, X])[RANDOM.permutation(60)]
    task = Task(name="t", train=(X, Y), test=(XT, YT), calibration=mixed)
    kept = {
        row.tobytes() for row in task.need("calibration", "x").inputs["input"]
    }
    assert kept == {row.tobytes() for row in X}
    assert task.describe()["also_in_test"] == {"train": 0, "calibration": 20}


def test_samples_are_drawn_at_random_and_the_same_for_a_seed() -> None:
    """Sorted data are drawn in mixed order; labels stay with their samples; asking for more returns
    all.
    """
    split = Task(name="t", test=(XT, numpy.arange(20))).need("test", "x")
    drawn = split.draw(8, seed=1)
    assert drawn.labels is not None
    assert (
        drawn.labels.tolist()
        == split.draw(8, seed=1).labels.tolist()
        != list(range(8))
    )  # type: ignore[union-attr]
    assert all(
        numpy.array_equal(array, XT[label])
        for array, label in zip(
            drawn.inputs["input"], drawn.labels, strict=True
        )
    )
    assert len(split.draw(99, seed=1)) == 20


def test_a_users_metric_is_known_by_its_text_defaults_and_closure() -> None:
    """Another body, another default or another enclosed value is another metric."""

    def make(k: int) -> object:
        def metric(outputs: object, labels: object, scale: int = 1) -> int:
            return k

        return metric

    assert identity(make(1)) != identity(make(2))
    assert identity(make(1)) == identity(make(1))
    assert identity("top1") == "top1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": None}, "has no test data"),
        (
            {"loss": "crossentropy"},
            "Unknown loss 'crossentropy'. Did you mean 'cross_entropy'?",
        ),
        ({"metric": "top2"}, "Unknown metric 'top2'"),
        ({"test": (XT, YT[:-1])}, "20 samples but (19,) labels"),
        ({"test": (XT[:0], YT[:0])}, "input has no samples"),
        (
            {"test": (XT[:, :2], YT)},
            "the train inputs are input float32[3, 4], the test inputs input float32[2, 4]",
        ),
        (
            {"test": (XT.astype("int32"), YT)},
            "give all splits the same shape and dtype",
        ),
        (
            {"test": ({"a": XT, "b": XT[:5]}, YT)},
            "different numbers of samples (a: 20, b: 5)",
        ),
        (
            {"test": (numpy.full((20, 3, 4), numpy.nan, "float32"), YT)},
            "NaN or infinite",
        ),
        (
            {"test": (numpy.array([[1], [1, 2]], dtype=object), YT[:2])},
            "Python objects",
        ),
        ({"train": 3}, "expected (inputs, labels) or batches"),
        ({"train": []}, "no batches"),
        ({"train": [(X,)]}, "expected (inputs, labels) or batches"),
    ],
)
def test_data_that_cannot_be_used_are_refused(
    options: dict[str, object], message: str
) -> None:
    """Each kind of bad data has its own clear message."""
    assert message in refusal(**options)


def test_batches_are_joined() -> None:
    """An iterable of batches results in the same splits, in the same order, as the arrays."""
    from_arrays = Task(name="t", train=(X, Y), test=(XT, YT))
    batches = Task(
        name="t",
        train=((X[k : k + 7], Y[k : k + 7]) for k in range(0, 40, 7)),
        test=[(XT[:9], YT[:9]), (XT[9:], YT[9:])],
    )
    assert batches.describe() == from_arrays.describe()


def test_several_inputs_are_named() -> None:
    """A model with two inputs gets two named arrays; doubles become float32."""
    task = Task(
        name="t",
        test=(
            {
                "ids": numpy.zeros((4, 6), "int64"),
                "weights": numpy.ones((4, 6)),
            },
            YT[:4],
        ),
    )
    test = task.need("test", "a test")
    assert {name: str(array.dtype) for name, array in test.inputs.items()} == {
        "ids": "int64",
        "weights": "float32",
    }
    assert task.split("calibration") is None


def test_the_error_for_a_missing_split_names_who_needs_it() -> None:
    """A task with no training data, where the recipe trains, is a clear error."""
    with pytest.raises(
        TaskError, match="has no train data, and the step 'train' needs them"
    ):
        Task(name="t", test=(XT, YT)).need("train", "the step 'train'")


def test_a_regression_has_no_classes() -> None:
    """Labels that are not integers are not classes."""
    assert (
        Task(
            name="t",
            test=(XT, YT.astype("float32")),
            loss="mse",
            metric="negative_mse",
        ).classes
        is None
    )


def test_a_split_is_recorded_by_its_content() -> None:
    """One changed label or pixel, or another name, results in another hash; the same data the
    same.
    """
    split = Split({"input": X}, Y)
    changed = X.copy()
    changed[0, 0, 0] += 1
    hashes = {
        fingerprint(one)
        for one in (
            split,
            Split({"input": changed}, Y),
            Split({"input": X}, Y + 1),
            Split({"x": X}, Y),
            Split({"input": X}, None),
        )
    }
    assert len(hashes) == 5
    assert fingerprint(split) == fingerprint(
        Split({"input": X.copy()}, Y.copy())
    )


def test_a_users_loss_is_reported_by_name_and_identified_by_its_source() -> (
    None
):
    """A changed loss function changes what depends on it, and the report contains its name."""

    def mine(outputs: object, labels: object) -> object:
        return (outputs, labels)

    assert Task(name="t", test=(XT, YT), loss=mine).describe()["loss"] == "mine"
    assert "return (outputs, labels)" in identity(mine)
    assert identity("mse") == "mse"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test": (XT, numpy.array(["cat"] * 20))},
            "the labels contain <U3, not numbers",
        ),
        ({"test": (XT, YT.astype("datetime64[D]"))}, "not numbers"),
        (
            {"test": (XT.astype("complex64"), YT)},
            "input contains complex64, not numbers",
        ),
        (
            {"test": (XT, YT.astype("float32"))},
            "the training labels are int64[n], the test labels float32[n]",
        ),
        ({"test": (XT, YT[:, None])}, "the test labels int64[n, 1]"),
        (
            {"test": (XT, numpy.full(20, numpy.nan)), "train": None},
            "the labels contain NaN",
        ),
        ({"test": ({}, YT)}, "there are no inputs"),
        (
            {"train": [(X[:8], Y[:8]), (X[8:16, :2], Y[8:16])]},
            "the batches do not fit together",
        ),
        ({"loss": None}, "the loss is of type NoneType"),
        ({"metric": 5}, "the metric is of type int"),
        ({"origin": {"share": float("nan")}}, "origin cannot be reported"),
    ],
)
def test_data_that_would_fail_later_are_refused(
    options: dict[str, object], message: str
) -> None:
    """What no network can be trained on or scored with is reported when the task is created, not
    after the training.
    """
    assert message in refusal(**options)


def test_another_machines_byte_order_is_turned() -> None:
    """Big-endian arrays, as old instruments write them, are the same numbers in this
    machine's order.
    """
    task = Task(
        name="t",
        train=(X.astype(">f4"), Y.astype(">i8")),
        test=(XT.astype(">f4"), YT.astype(">i8")),
    )
    split = task.need("train", "a test")
    assert split.labels is not None
    assert split.inputs["input"].dtype.isnative and split.labels.dtype.isnative
    assert numpy.array_equal(split.inputs["input"], X) and numpy.array_equal(
        split.labels, Y
    )


def test_an_origin_is_kept_as_texts_and_numbers() -> None:
    """A path or a NumPy number in the origin is recorded as its text, so that the report
    can be written.
    """
    assert Task(
        name="t",
        test=(XT, YT),
        origin={"seed": numpy.int64(3), "shares": (0.8, 0.2)},
    ).origin == {"seed": "3", "shares": [0.8, 0.2]}
