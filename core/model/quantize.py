"""The text encoder in 8 bits: half the memory of bfloat16, so that CALM2-7B fits beside the transformer on 24 GB.

Three libraries do it, all to the linear layers alone: quanto (the paper's) and torchao round the weights, one scale for
each output channel, and multiply in the encoder's own precision; bitsandbytes (LLM.int8(), arXiv 2208.07339) multiplies in
8 bits too. States of one are not states of another, so the precision is recorded with them: `quanto-int8/bfloat16`.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.device import dtype_name
from commonart.core.settings import check_quantizer

# Bits of a weight with its share of the scales, the gentlest first.
BITS = {"quanto-int8": 8.2, "bnb-int8": 8.2, "torchao-int8": 8.2, "bnb-nf4": 4.5}


def check(method: str | None) -> None:
    """Raise UsageError for an unknown method, and CommonArtError for one whose library is not installed."""
    check_quantizer(method or "")
    if method == "torchao-int8" and find_spec("torchao") is None:
        raise CommonArtError(
            "--quantize torchao-int8 needs torchao, which is not installed.",
            "Install it (uv sync --extra torchao), or use --quantize quanto-int8.",
        )


def quantize(model: nn.Module, method: str) -> None:
    """Turn the linear layers of `model`, still on the CPU, into 8-bit ones by `method`, in place. Raises as `check` does."""
    check(method)
    with redirect_stdout(sys.stderr):  # some libraries print
        {"quanto-int8": _quanto, "bnb-int8": _bitsandbytes, "torchao-int8": _torchao}[method](model)


def _quanto(model: nn.Module) -> None:
    from optimum.quanto import freeze, qint8
    from optimum.quanto import quantize as quantize_weights

    quantize_weights(model, weights=qint8)
    freeze(model)


def _bitsandbytes(model: nn.Module) -> None:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    for name, layer in [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]:
        new: Any = Linear8bitLt(
            layer.in_features, layer.out_features, bias=layer.bias is not None, has_fp16_weights=False, threshold=6.0
        )
        new.weight = Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        new.bias = layer.bias
        model.set_submodule(name, new)
    model.to("cpu")  # a move rounds the weights: the 16-bit ones never lie on the GPU


def _torchao(model: nn.Module) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())


def precision_name(dtype: torch.dtype, method: str | None) -> str:
    """Return what runs and caches record of an encoder's arithmetic: "bfloat16", "quanto-int8/bfloat16"."""
    return f"{method}/{dtype_name(dtype)}" if method else dtype_name(dtype)


def resolve_precision(recorded: str, requested: str | None, of: str) -> tuple[str | None, str]:
    """Return (quantize, dtype name) of an encoder whose states must fit those `of` a cache or a run, made in `recorded`.

    "" as `recorded` leaves the choice to `requested`; the dtype is then "" too. Raises UsageError where `requested` differs.
    """
    method, _, dtype = recorded.rpartition("/")
    if recorded and requested and requested != method:
        raise UsageError(
            f"--quantize {requested} does not fit: the text states of {of} were made in {recorded}.",
            "Leave --quantize out: the recorded precision is taken.",
        )
    return method or requested or None, dtype
