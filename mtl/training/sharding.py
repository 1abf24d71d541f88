"""Train an encoder whose weights lie in shards, one on each process, with PyTorch's FSDP2 through Lightning.

Each process holds its part of the encoder's trained weights, gradients and optimizer state, and collects the weights of
a layer while it computes it (Rajbhandari et al. 2020, ZeRO-3). Heads and the parameters of a loss are on every process.
Checkpoints hold whole tensors, and are those of any other training.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mtl.model.layers import main_list
from mtl.model.network import MultiTaskNetwork
from mtl.training.parallel import Peers, sum_over_processes


class ShardedEncoder(Peers, ModelParallelStrategy):
    """Lightning's strategy for FSDP2, for processes that share the rows of each step unequally.

    FSDP2 averages the gradients of the encoder over the processes during the backward pass; `over_processes` scales the
    losses so that this mean is the gradient of a single process with all rows. The other gradients are averaged after
    it: a process without rows of a task has none of its head, which FSDP2 would wait for.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def shard(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Return a copy of a network whose encoder is sharded.

        The network itself stays as it is, to compute the activations of frozen layers; see `collect`.
        """
        network = copy.deepcopy(network)
        encoder, mesh = network.encoder, self.device_mesh["data_parallel"]
        for layer in main_list(encoder.backbone):
            fully_shard(layer, mesh=mesh)
        fully_shard(encoder, mesh=mesh)
        register_fsdp_forward_method(encoder, "forward_from")
        encoder.is_sharded = True
        return network

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """False: as with other strategies, callbacks have their state when the fit starts."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: checkpoints are those of `CheckpointFiles`, which hold whole tensors."""
        return True

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients of what is not sharded; None stays None where no process has any."""
        parameters = [
            parameter
            for parameter in self.module.parameters()
            if parameter.requires_grad and not isinstance(parameter, DTensor)
        ]
        if not parameters:
            return
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        known = torch.tensor([float(each.grad is not None) for each in parameters], device=self.root_device)
        sums = sum_over_processes(torch.cat([known, *(gradient.flatten() for gradient in gradients)]))
        means = torch.split(sums[len(parameters) :] / dist.get_world_size(), [each.numel() for each in parameters])
        for parameter, mean, count in zip(parameters, means, sums[: len(parameters)].tolist(), strict=True):
            if count:
                parameter.grad = mean.view_as(parameter)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the state of the module in whole tensors, in every process."""
        return {name: whole(value) for name, value in self.module.state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state of the optimizer in whole tensors, in every process."""
        state: dict[str, Any] = optimizer.state_dict()
        of_parameters = {
            number: {name: whole(value) for name, value in values.items()} for number, values in state["state"].items()
        }
        return {**state, "state": of_parameters}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a checkpoint in the first process."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Return a checkpoint; Lightning's own would load its tensors as well."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load each process's part of the weights in a checkpoint."""
        own = self.module.state_dict()
        state = {name: laid_out_as(own[name], value) for name, value in checkpoint["state_dict"].items()}
        self.module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load each process's part of the optimizer's state in a checkpoint."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            of_parameters = {
                number: {name: laid_out_as(parameters[number], value) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": of_parameters})


def collect(shards: nn.Module, network: nn.Module) -> None:
    """Copy the weights of a sharded network into the one that it was made from; all processes take part."""
    into = dict(network.named_parameters())
    with torch.no_grad():
        for name, parameter in shards.named_parameters():
            into[name].copy_(whole(parameter))


def whole(value: Any) -> Any:
    """Return a sharded tensor as a whole one on the CPU, for which all processes must call this; all else as it is."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def laid_out_as(parameter: Tensor, value: Any) -> Any:
    """Return a whole tensor of a parameter's shape in shards as those of the parameter; anything else as it is."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:  # the number of steps in the state of AdamW
        return value
    value = value.to(parameter.device, parameter.dtype)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
