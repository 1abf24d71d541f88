"""The layers of an encoder from the bottom up: every module and parameter belongs to exactly one, in any family."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from mtl.base.errors import ModelError, Problem

EMBEDDINGS = "embeddings"
ADAPTER = "lora"


def adapter_of(layer: str) -> str:
    """Return what the adapters of a layer are called as a layer of their own: ``lora.3`` for ``layer.3``."""
    return layer.replace("layer", ADAPTER, 1)


def main_list(backbone: nn.Module) -> nn.ModuleList:
    """Return the list of the encoder's layers: of all lists in it the one with most parameters, outermost first."""
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        found = f"{type(backbone).__name__} has no list of layers"
        raise ModelError(Problem("backbone", found, "an encoder made of layers, such as MPNet, BERT or RoBERTa"))
    return max(lists, key=lambda layers: sum(parameter.numel() for parameter in layers.parameters()))


def partition(backbone: nn.Module) -> dict[str, list[nn.Module]]:
    """Assign the modules of ``backbone`` to layers, in the order bottom-up.

    Modules beside the layers count to ``embeddings`` when they work below or for all of them (MPNet's relative
    attention bias), and to the last layer when they first work after it (a final norm). Which is which shows in a
    forward pass over three tokens.

    Returns:
        ``{"embeddings": [...], "layer.0": [...], ...}``: disjoint modules that hold all parameters but those that
        stand on a container of the layers themselves.

    Raises:
        ModelError: The model has no list of layers, or is no encoder (a decoder's inputs are missing).
    """
    layers = main_list(backbone)
    beside = list(_beside(backbone, layers))
    above = _first_used_after(backbone, layers, beside)
    names = [f"layer.{index}" for index in range(len(layers))]
    parts = {EMBEDDINGS: [module for module in beside if module not in above]}
    parts |= {name: [layer] for name, layer in zip(names, layers, strict=True)}
    parts[names[-1]] += [module for module in beside if module in above]
    return parts


def parameters_by_layer(
    model: nn.Module, parts: dict[str, list[nn.Module]]
) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Assign every parameter to one layer; one that several layers share goes to the first of them.

    Names are those in ``model.named_parameters()``. Parameters on no module of ``parts``, which has the modules of each
    layer, count to ``embeddings``.
    """
    owners: dict[nn.Parameter, str] = {}
    for layer, modules in parts.items():
        for module in modules:
            for parameter in module.parameters():
                owners.setdefault(parameter, layer)
    result: dict[str, list[tuple[str, nn.Parameter]]] = {layer: [] for layer in parts}
    for name, parameter in model.named_parameters():
        result[owners.get(parameter, EMBEDDINGS)].append((name, parameter))
    return result


def _beside(module: nn.Module, layers: nn.ModuleList) -> Iterator[nn.Module]:
    """Yield the largest modules that do not contain ``layers``, in the order in which they were registered."""
    for child in module.children():
        if child is layers:
            continue
        if any(part is layers for part in child.modules()):
            yield from _beside(child, layers)
        else:
            yield child


def _first_used_after(backbone: nn.Module, layers: nn.ModuleList, beside: list[nn.Module]) -> set[nn.Module]:
    """Return those of ``beside`` that a forward pass reaches only once the last layer has begun."""
    order: list[nn.Module] = []
    hooks = [
        part.register_forward_pre_hook(lambda _module, _inputs, whole=whole: order.append(whole))
        for whole in (*beside, layers[-1])
        for part in whole.modules()
    ]
    try:
        _try_out(backbone)
    finally:
        for hook in hooks:
            hook.remove()
    last = max(index for index, module in enumerate(order) if module is layers[-1])
    return {module for module in beside if module in order and order.index(module) > last}


def _try_out(backbone: nn.Module) -> None:
    """Run three tokens through the model in evaluation mode, so that no random number is drawn."""
    device = next(backbone.parameters()).device
    ids = torch.zeros(1, 3, dtype=torch.long, device=device)
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            output = backbone(input_ids=ids, attention_mask=torch.ones_like(ids))
        if output.last_hidden_state.shape[:2] != ids.shape:
            raise ValueError(f"hidden states of shape {tuple(output.last_hidden_state.shape)} for 1 x 3 tokens")
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        found = f"{type(backbone).__name__} does not run on token ids alone: {error}"
        raise ModelError(Problem("backbone", found, "an encoder that gives a hidden state per token")) from error
    finally:
        backbone.train(training)
