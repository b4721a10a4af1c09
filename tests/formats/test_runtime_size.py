"""The size of a runtime is a measurement of a named library, or none."""

from importlib import metadata

from edgekit.formats.runtime_size import measure_runtime


def test_a_library_that_is_here_is_measured() -> None:
    """ONNX Runtime's own library: more than a megabyte, with its version, and what is not
    measured is said.
    """
    found = measure_runtime("onnxruntime", "libonnxruntime.so", 7, 300)
    assert found["runtime_bytes"] > 1_000_000
    assert metadata.version("onnxruntime") in found["runtime_is"]
    assert "was not built here" in found["runtime_is"]
    assert (found["operators"], found["operators_of"]) == (7, 300)


def test_a_library_that_is_not_here_has_no_size() -> None:
    """None, not zero and not a guess."""
    assert (
        measure_runtime("onnxruntime", "libsomething", 7, 300)["runtime_bytes"]
        is None
    )
