"""TFLite files compiled for the Edge TPU, on an Edge TPU connected to this machine."""

from __future__ import annotations

from typing import Any

from . import edgetpu, runtime_litert

DISTRIBUTIONS = runtime_litert.DISTRIBUTIONS
SUFFIXES = runtime_litert.SUFFIXES
#: Another runtime loads the file of its format.
FORMATS: tuple[str, ...] = ()


class Model(runtime_litert.Model):
    """A TFLite file from edgetpu_compiler, on an Edge TPU connected to this machine."""

    def _create_interpreter(
        self, module: Any, path: str, threads: int, optimize: bool
    ) -> Any:
        return module.Interpreter(
            model_path=path,
            num_threads=threads,
            experimental_delegates=[
                edgetpu.create_delegate(module.load_delegate)
            ],
        )
