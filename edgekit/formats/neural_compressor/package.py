"""The only module that imports neural-compressor: without its warnings, and with fixes for its
bugs that affect edgekit.
"""

import contextlib
import warnings
from collections.abc import Iterator

import torch

from edgekit.errors import EdgekitError, StepError, condense
from edgekit.quantization import capture


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings of neural-compressor, and of what it imports, for their own developers.
    Errors pass.
    """
    with capture.quiet(), warnings.catch_warnings():
        for category in (
            DeprecationWarning,
            FutureWarning,
            UserWarning,
            SyntaxWarning,
        ):
            warnings.filterwarnings(
                "ignore",
                category=category,
                module=r"neural_compressor|torch\.|torchao\.|transformers\.",
            )
        # While Python compiles the packages for the first time.
        warnings.filterwarnings("ignore", message="invalid escape sequence")
        # torch.jit.trace, with which AWQ looks for the layers that can absorb its scales,
        # warns in the model's own module.
        warnings.filterwarnings(
            "ignore",
            message=".*(torch.jit|TracerWarning|Converting a tensor to a Python"
            "|might cause the trace)",
        )
        yield


with quiet():
    import neural_compressor.torch.algorithms.weight_only.rtn as _rtn
    from neural_compressor.common.base_tuning import TuningConfig
    from neural_compressor.torch.algorithms.weight_only.hqq.config import (
        QTensorConfig,
        hqq_global_option,
    )
    from neural_compressor.torch.algorithms.weight_only.hqq.core import (
        HQQTensorHandle,
    )
    from neural_compressor.torch.algorithms.weight_only.modules import (
        INCWeightOnlyLinear,
    )
    from neural_compressor.torch.quantization import (
        AWQConfig,
        RTNConfig,
        StaticQuantConfig,
        convert,
        prepare,
    )
    from neural_compressor.torch.quantization.autotune import autotune

    with contextlib.suppress(ImportError):
        import transformers

        # 3.10 uses transformers when it is called, but imports it only if it was imported
        # before.
        _rtn.transformers = transformers


@contextlib.contextmanager
def translate_errors(fix: str) -> Iterator[None]:
    """Run without warnings and gradients; raise StepError with the start of whatever message
    neural-compressor raises.
    """
    try:
        with quiet(), torch.no_grad():
            yield
    except EdgekitError:
        raise
    except (
        Exception
    ) as error:  # whatever its parts and the network's own code raise
        first_lines = "\n".join(str(error).strip().splitlines()[:3])
        raise StepError(
            f"neural-compressor cannot quantize this network: {type(error).__name__}:"
            f" {condense(first_lines, 300)}",
            fix=fix,
        ) from error


__all__ = [
    "AWQConfig",
    "HQQTensorHandle",
    "INCWeightOnlyLinear",
    "QTensorConfig",
    "RTNConfig",
    "StaticQuantConfig",
    "TuningConfig",
    "autotune",
    "convert",
    "hqq_global_option",
    "prepare",
    "quiet",
    "translate_errors",
]
