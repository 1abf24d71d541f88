"""Make the parts of a run from its configuration: network, adapters, freeze plan, parameter groups, losses."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mtl.base.errors import ConfigError, Problem, listed
from mtl.base.label_tree import branches_by, separator_problems
from mtl.config.checks import HEAD_KEY
from mtl.config.fields import Config, Decay, Layerwise, MultiStageConfig
from mtl.data.tasks import TaskData
from mtl.model.adapters import add_adapters
from mtl.model.encoder import Encoder
from mtl.model.head_specs import FirstStageSpec, MultiStageSpec, spec_problems
from mtl.model.layers import ADAPTER
from mtl.model.loading import load_tokenizer
from mtl.model.network import MultiTaskNetwork
from mtl.model.saved import HeadSpec, SavedModel, TaskHead, build_network, load_model
from mtl.training.combination import COMBINATIONS, Combination
from mtl.training.freezing import FreezePlan, plan_freezing, top_layers
from mtl.training.learning_rates import (
    COMBINATION,
    LayerRate,
    ParameterGroup,
    decayed_rates,
    layerwise_rates,
    parameter_groups,
    uniform_rates,
)


@dataclass(frozen=True, slots=True)
class Start:
    """What training starts from."""

    network: MultiTaskNetwork
    tokenizer: Any
    heads: dict[str, TaskHead]
    saved_heads: frozenset[str] = frozenset()  # the tasks whose heads come from a saved model
    kept: frozenset[str] = frozenset()  # those of them without data in this run: they are frozen, and saved again


def make_start(config: Config, tasks: Mapping[str, TaskData], weights: Path) -> Start:
    """Return the pretrained encoder with new heads, or a saved model.

    ``weights`` is the encoder's folder in the hub's layout, or the saved model of ``model.init_from``.
    """
    if config.model.init_from is not None:
        return _continued(config, tasks, load_model(weights))
    heads = {name: _head(config, name, task.labels.names) for name, task in tasks.items()}
    return Start(build_network(pretrained_encoder(config, weights), heads), load_tokenizer(weights), heads)


def pretrained_encoder(config: Config, weights: Path) -> Encoder:
    """Return the encoder in a folder in the hub's layout, with what the configuration says of it."""
    backbone = config.backbone
    return Encoder.from_folder(
        weights,
        max_length=backbone.max_length,
        pooling=backbone.pooling,
        normalize=backbone.normalize,
        prompt_name=backbone.prompt_name,
    )


def _continued(config: Config, tasks: Mapping[str, TaskData], saved: SavedModel) -> Start:
    """Return a saved model with a head for each task, its own or a new one, followed by its other heads."""
    problems, heads = [], {}
    for name, task in tasks.items():
        known = saved.tasks.get(name)
        if known is None:
            heads[name] = _head(config, name, task.labels.names)
            continue
        heads[name] = replace(known, temperature=1.0, bias=None, tau=0.0, stale=False)  # to fit again
        if tuple(known.labels) != task.labels.names:
            problems.append(_other_labels(name, task.labels.names, known.labels, saved.folder))
    if problems:
        raise ConfigError(problems)
    kept = frozenset(saved.tasks) - frozenset(tasks)
    heads |= {name: head for name, head in saved.tasks.items() if name in kept}
    network = build_network(saved.network.encoder, heads)
    for name in saved.tasks:
        network.head(name).load_state_dict(saved.network.head(name).state_dict())
    return Start(network, saved.tokenizer, heads, frozenset(saved.tasks), kept)


def _other_labels(task: str, labels: Sequence[str], saved: Sequence[str], folder: Path) -> Problem:
    key = f"data.tasks.{task}.labels"
    if set(labels) == set(saved):
        repair = shlex.quote(f"{key}=[{','.join(map(_quoted, saved))}]")
    else:
        repair = (
            "write the labels in the files as the model has them, or rename the task in the configuration, for example "
            f"to {task}_new: it gets a new head, and the saved head of {task} is kept beside it"
        )
    expected = f"{listed(saved)}, in this order, as in {folder}"
    return Problem(key, f"{listed(labels)} in the data", expected, repair)


def _quoted(label: str) -> str:
    """Return a label as an element of a list on the command line."""
    if label.isidentifier() and label.lower() not in ("null", "true", "false", "nan", "inf"):
        return label
    escaped = label.replace('"', '\\"')
    return f'"{escaped}"'


def _head(config: Config, task: str, labels: Sequence[str]) -> TaskHead:
    head = config.heads.of(task)
    if isinstance(head, MultiStageConfig):
        return TaskHead(labels=list(labels), head=_multi_stage_spec(head, labels))
    spec = HeadSpec(kind=head.kind, dropout=head.dropout, hidden=head.hidden, scale=head.scale)
    return TaskHead(labels=list(labels), head=spec)


def _multi_stage_spec(head: MultiStageConfig, labels: Sequence[str]) -> MultiStageSpec:
    tree = head.tree if head.separator is None else branches_by(head.separator, labels)
    return MultiStageSpec(
        kind="multi_stage",
        tree=tree or {},
        stage_kind=head.stage_kind,
        dropout=head.dropout,
        scale=head.scale,
        hidden=head.hidden,
        first_stage=None if head.first_stage is None else FirstStageSpec(**asdict(head.first_stage)),
    )


def check_stages(config: Config, tasks: Mapping[str, TaskData]) -> None:
    """Check the trees of multi-stage heads against the labels.

    Raises:
        ConfigError: Labels without a branch, branches with unknown labels, coarse classes that a borrowed head lacks.
    """
    labels = {name: task.labels.names for name, task in tasks.items()}
    problems: list[Problem] = []
    specs: dict[str, MultiStageSpec] = {}
    for name, head in config.heads.tasks.items():
        if not isinstance(head, MultiStageConfig):
            continue
        place, separator = f"{HEAD_KEY.format(name)}.separator", head.separator
        wrong = [] if separator is None else list(separator_problems(place, separator, name, labels[name]))
        problems += wrong
        if not wrong:
            specs[name] = _multi_stage_spec(head, labels[name])
    problems += spec_problems(HEAD_KEY, specs, labels)
    if problems:
        raise ConfigError(problems)


def add_lora(config: Config, network: MultiTaskNetwork) -> None:
    """Add the adapters of ``freeze=lora`` to the encoder in place, if the run has them."""
    freeze = config.freeze
    if (lora := freeze.lora) is None:
        return
    layers, largest = network.encoder.layer_names[1:], network.encoder.hidden_size
    chosen = layers if freeze.train_layers is None else top_layers(layers, freeze.train_layers)
    if lora.r > largest:
        expected = f"at most {largest}, the encoder's hidden size: no update of its weights has a higher rank"
        raise ConfigError(Problem("freeze.lora.r", str(lora.r), expected, "give freeze.lora.r=8"))
    add_adapters(
        network.encoder.backbone, chosen, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets
    )


def make_freeze_plan(config: Config, start: Start) -> FreezePlan:
    """Return when each layer is trained, in the unit of the configuration; heads without data are frozen."""
    freeze, encoder = config.freeze, start.network.encoder
    return plan_freezing(
        encoder.layer_names,
        start.network.tasks,
        backbone=freeze.backbone,
        heads="all" if freeze.heads == "all" else [*freeze.heads, *start.kept],
        train_layers=freeze.train_layers,
        adapters=encoder.adapter_names,
        gradual=freeze.gradual,
    )


def make_rates(config: Config, network: MultiTaskNetwork) -> dict[str, LayerRate]:
    """Return the learning rate of each layer of the encoder, of the adapters, and of the heads."""
    layers, chosen = network.encoder.layer_names, config.learning_rates
    if isinstance(chosen, Layerwise):
        rates = layerwise_rates(
            layers, heads=chosen.heads, upper=chosen.upper, lower=chosen.lower, upper_layers=chosen.upper_layers
        )
    elif isinstance(chosen, Decay):
        rates = decayed_rates(layers, heads=chosen.heads, top=chosen.top, factor=chosen.factor)
    else:
        rates = uniform_rates(layers, heads=chosen.heads, backbone=chosen.backbone)
    heads = rates.pop("heads")
    return {**rates, ADAPTER: LayerRate(ADAPTER, chosen.lora), "heads": heads}


def make_groups(
    config: Config, network: MultiTaskNetwork, freezing: FreezePlan, combination: Combination
) -> list[ParameterGroup]:
    """Return the parameter groups of the network, and last that of what the combination of losses learns.

    Nothing is trained, and so there are no groups, if the whole network is frozen.
    """
    groups = parameter_groups(network, make_rates(config, network), freezing, config.optimizer.weight_decay)
    learned = {f"{COMBINATION}.{name}": parameter for name, parameter in combination.named_parameters()}
    if groups and learned:
        groups.append(ParameterGroup(COMBINATION, ("log variances",), combination.rate, 0.0, learned))
    return groups


def make_combination(config: Config, tasks: Sequence[str]) -> Combination:
    """Return how the losses of the trained tasks are combined."""
    name = config.loss.combine
    try:
        return COMBINATIONS[name](tasks, config.loss)
    except ImportError as error:
        found = f"{name}, which needs TorchJD: {str(error).partition('. ')[0]}"
        expected = "sum, weighted, uncertainty, dwa or famo, or TorchJD"
        raise ConfigError(Problem("loss.combine", found, expected, "pip install 'mtl[gradients]'")) from None
