"""Low-rank adapters beside the linear layers of an encoder (LoRA, Hu et al. 2021), made by the package peft.

Notation: x inputs ``(..., in)``, A ``(r, in)`` and B ``(out, r)``: a layer with an adapter gives
``x W^T + b + (alpha / r) * dropout(x) A^T B^T`` (section 4.1, equation 3). B starts as zeros: at first nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from torch import Tensor, nn

from mtl.base.errors import ModelError, Problem, listed
from mtl.model.cpu.dropout import fast_dropout, use_fast_dropout
from mtl.model.layers import main_list

_NAME: Final = "default"
_PROJECTIONS: Final = ("query", "key", "value")
_WRAPPERS: Final = ("lora_dropout", "lora_A", "lora_B")
"""The modules of an adapter in peft's wrapper of a linear layer."""

_JOINED: Final = "attn.Wqkv"
"""ModernBERT's one linear layer for query, key and value."""

TARGETS: Final = {
    "query": (
        "attention.self.query",
        "attention.attn.q",
        "attention.q_lin",
        "attention.self.query_proj",
        "self_attn.q_proj",
        _JOINED,
    ),
    "key": (
        "attention.self.key",
        "attention.attn.k",
        "attention.k_lin",
        "attention.self.key_proj",
        "self_attn.k_proj",
        _JOINED,
    ),
    "value": (
        "attention.self.value",
        "attention.attn.v",
        "attention.v_lin",
        "attention.self.value_proj",
        "self_attn.v_proj",
        _JOINED,
    ),
    "attention_output": (
        "attention.output.dense",
        "attention.attn.o",
        "attention.out_lin",
        "self_attn.o_proj",
        "attn.Wo",
    ),
    "feed_forward": (
        *("intermediate.dense", "output.dense"),
        *("ffn.lin1", "ffn.lin2"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        *("mlp.Wi", "mlp.Wo"),
    ),
}
"""For each part of a layer what its linear layers are called in BERT and its kin, MPNet, DistilBERT, DeBERTa, the
decoders and ModernBERT."""


def add_adapters(
    backbone: nn.Module, layers: Sequence[str], *, r: int, alpha: float, dropout: float, targets: Sequence[str]
) -> None:
    """Put adapters beside linear layers, in place; what the encoder gives does not change yet.

    Args:
        backbone: The encoder's transformer.
        layers: Those that get them, of ``layer.0`` and so on.
        r: Rank, the number of rows of A.
        alpha: The product of A and B counts ``alpha / r`` times.
        dropout: Share of an adapter's inputs that is dropped in training.
        targets: Keys of `TARGETS`.

    Raises:
        ModelError: The encoder's family has other linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model  # an extra, and half a second

    blocks = main_list(backbone)
    path = next(name for name, module in backbone.named_modules() if module is blocks)
    numbers = [layer.removeprefix("layer.") for layer in layers]
    wanted = [f"{path}.{number}.{part}" for number in numbers for part in _parts(blocks[int(number)], targets)]
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=wanted, bias="none")
    inject_adapter_in_model(config, backbone, adapter_name=_NAME)
    use_fast_dropout(backbone)
    backbone.eval()


def _parts(layer: nn.Module, targets: Sequence[str]) -> list[str]:
    linear = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    parts = {target: [name for name in TARGETS[target] if name in linear] for target in targets}
    missing = [target for target, names in parts.items() if not names]
    if missing:
        place = f"no {listed(missing)} in a {type(layer).__name__}, whose linear layers are {listed(linear)}"
        raise ModelError(Problem("freeze.lora.targets", place, "another encoder, or another scenario than freeze=lora"))
    together = [target for target, names in parts.items() if _JOINED in names]
    if together and len(together) < len(_PROJECTIONS):
        place = f"{listed(together)} in a {type(layer).__name__}, which has one linear layer for query, key and value"
        repair = f"freeze.lora.targets=[{', '.join(dict.fromkeys([*_PROJECTIONS, *targets]))}]"
        raise ModelError(Problem("freeze.lora.targets", place, "all three or none of them", repair))
    return list(dict.fromkeys(name for names in parts.values() for name in names))


def merge_adapters(backbone: nn.Module) -> None:
    """Add the adapters to the weights beside them and take them out, in place: a plain encoder of the same results."""
    for name, module in [item for item in backbone.named_modules() if has_adapter(item[1])]:
        module.merge()
        backbone.set_submodule(name, module.get_base_layer())
    if hasattr(backbone, "peft_config"):
        del backbone.peft_config


def has_adapter(module: nn.Module) -> bool:
    """Whether a module is peft's wrapper of a linear layer."""
    return hasattr(module, "lora_A")


def adapter_modules(module: nn.Module) -> list[nn.Module]:
    """Return what adapters within a module consist of, without the linear layers beside them."""
    return [getattr(part, name) for part in module.modules() if has_adapter(part) for name in _WRAPPERS]


def adapted(x: Tensor, result: Tensor, layer: Any) -> Tensor:
    """Return ``result``, ``(T, out)``, plus what an adapter of the linear layer gives for the inputs x, ``(T, in)``.

    For a forward pass that takes the weights of the linear layer itself and so goes past peft's wrapper.
    """
    if not has_adapter(layer):
        return result
    first, second, dropout = layer.lora_A[_NAME], layer.lora_B[_NAME], layer.lora_dropout[_NAME]
    rate = dropout.p if dropout.training and isinstance(dropout, nn.Dropout) else 0.0
    narrow = F.linear(fast_dropout(x, rate), first.weight.to(x.dtype))  # (T, r)
    return result + F.linear(narrow, second.weight.to(x.dtype) * layer.scaling[_NAME])
