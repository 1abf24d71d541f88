"""The sentence encoder: a pretrained backbone with pooling, named layers, and a forward pass that can be split.

Notation: B rows, S tokens of the longest row, H hidden size. Boundary k lies below layer k: 0 is the output of the
embeddings, the number of layers the output of the last one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, Self

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from mtl.base.errors import ModelError, Problem
from mtl.base.files import write_json
from mtl.model.adapters import adapter_modules
from mtl.model.attention import compute_dtype, fuse_mpnet, is_mpnet
from mtl.model.cpu import attention
from mtl.model.cpu.dropout import use_fast_dropout
from mtl.model.cpu.packed import FAMILIES, PackedLayer, run_packed
from mtl.model.layers import adapter_of, main_list, parameters_by_layer, partition
from mtl.model.layout import DENSE_WEIGHTS, SentenceLayout, dense_folders, layout_files
from mtl.model.layout import layout as read_layout
from mtl.model.loading import load_backbone, load_dense, positions, quiet
from mtl.model.sentence_embedding import Dense, pool

# Families that are embeddings, a mask and layers(hidden, mask), nothing above: all that the split forward pass needs.
_SPLIT_FAMILIES: Final = frozenset({"mpnet", "bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"})

# Families whose attention is nothing but `plain_attention`: it sees both sides and has a key for each query head.
_PLAIN_FAMILIES: Final = _SPLIT_FAMILIES - {"mpnet"} | {"albert", "modernbert"}


class Encoder(nn.Module):
    """A backbone with pooling: token ids in, one embedding per row out.

    Args:
        backbone: A transformers encoder without pooler; an MPNet gets fused attention.
        layout: Pooling, normalisation and the longest input; by default mean pooling, neither of the others.

    Attributes:
        dense: The Dense modules of the layout, between pooling and normalisation; they belong to the last layer.
        embedding_size: E, the size of an embedding: H unless poolings are concatenated or Dense modules follow.
        supports_split: Whether ``embed_tokens``, ``hidden_at`` and ``forward_from`` can be called.
        is_sharded: Whether each of several processes holds a part of the weights, so that all of them must take part
            in every pass, and each layer must be called as a module (`mtl.training.sharding`).

    Raises:
        ModelError: The backbone has no layers, or a Dense module takes other sizes than come before it.
    """

    def __init__(self, backbone: PreTrainedModel, layout: SentenceLayout | None = None) -> None:
        super().__init__()
        self.backbone = fuse_mpnet(backbone) if is_mpnet(backbone) else backbone
        use_fast_dropout(self.backbone)
        self.layout = layout or SentenceLayout()
        self.dense = nn.ModuleList(Dense(spec) for spec in self.layout.dense)
        self.hidden_size: int = backbone.config.hidden_size
        self.embedding_size: int = _embedding_size(self.layout, self.hidden_size)
        self.supports_split: bool = backbone.config.model_type in _SPLIT_FAMILIES and not getattr(
            backbone.config, "is_decoder", False
        )
        self.is_sharded = False
        self._parts = partition(self.backbone)
        self._layers: list[nn.Module] = list(main_list(self.backbone))  # found once: it counts all parameters
        self._parts[self.layer_names[-1]] += self.dense
        self._ready: tuple[torch.dtype, list[PackedLayer]] | None = None

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        max_length: int | None = None,
        pooling: str = "auto",
        normalize: bool | Literal["auto"] = "auto",
        prompt_name: str | None = "auto",
    ) -> Self:
        """Load an encoder in evaluation mode, in float32.

        Args:
            folder: A folder in the hub's layout, as ``locate`` returns it.
            max_length: Longest input in tokens; None for what the folder says.
            pooling: See `SentenceLayout`, here and below "auto" for what the folder says.
            normalize: Whether to scale embeddings to length 1.
            prompt_name: The prompt that is put before each sentence where no other is asked for; None for none.

        Raises:
            ModelError: The folder's files are damaged, incomplete or not supported, ``max_length`` is more than
                the backbone has positions, or there is no such prompt.
        """
        stored = read_layout(folder)
        backbone = load_backbone(folder)
        limit = positions(backbone)
        if max_length is not None and limit is not None and max_length > limit:
            expected = f"at most {limit}, the positions that {folder} has"
            raise ModelError(Problem("backbone.max_length", str(max_length), expected))
        lengths = [length for length in (max_length or stored.max_length, limit) if length is not None]
        chosen = replace(
            stored,
            max_length=min(lengths, default=None),
            pooling=stored.pooling if pooling == "auto" else pooling,
            normalize=stored.normalize if normalize == "auto" else normalize,
            default_prompt=stored.default_prompt if prompt_name == "auto" else prompt_name,
        )
        chosen.prompt(place="backbone.prompt_name")  # refuses one that there is not
        encoder = cls(backbone, chosen)
        for module, spec in zip(encoder.dense, chosen.dense, strict=True):
            load_dense(module, folder / spec.path / DENSE_WEIGHTS)
        return encoder.eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the embeddings, (B, E), float32, of token ids, (B, S), with a mask that is true at real tokens."""
        return self.pool(self.forward_hidden(ids, mask), mask)

    def forward_hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states above the last layer, (B, S, H)."""
        if self.supports_split:
            return self._run(self.embed_tokens(ids), mask, 0, self.num_layers)
        hidden: Tensor = self.backbone(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return hidden

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Return the output of the embeddings, (B, S, H): the hidden states at boundary 0."""
        self._require_split(0)
        hidden: Tensor = self.backbone.embeddings(input_ids=ids)
        if hasattr(self.backbone, "embeddings_project"):  # Electra
            hidden = self.backbone.embeddings_project(hidden)
        return hidden

    def hidden_at(self, ids: Tensor, mask: Tensor, boundary: int) -> Tensor:
        """Return the hidden states at ``boundary``, (B, S, H), which ``forward_from`` takes."""
        self._require_split(boundary)
        return self._run(self.embed_tokens(ids), mask, 0, boundary)

    def no_rows(self, boundary: int | None = None) -> Tensor:
        """Return the embeddings, (0, E), of no rows, for which a sharded encoder takes part in a pass."""
        where = next(self.parameters()).device
        if not self.is_sharded:
            return torch.zeros(0, self.embedding_size, device=where, requires_grad=torch.is_grad_enabled())
        mask = torch.ones(1, 1, dtype=torch.bool, device=where)
        if boundary is not None:
            return self.forward_from(torch.zeros(1, 1, self.hidden_size, device=where), mask, boundary)[:0]
        padding = torch.full((1, 1), self.config.pad_token_id or 0, device=where)
        embeddings: Tensor = self(padding, mask)
        return embeddings[:0]

    def hidden_states(self, ids: Tensor, mask: Tensor, boundaries: Sequence[int]) -> list[Tensor]:
        """Return the hidden states at several boundaries, in rising order, each (B, S, H), from one pass."""
        if not self.supports_split:
            states = self.backbone(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
            return [states[boundary] for boundary in boundaries]
        hidden, reached, kept = self.embed_tokens(ids), 0, []
        for boundary in boundaries:
            hidden = self._run(hidden, mask, reached, boundary)
            reached = boundary
            kept.append(hidden)
        return kept

    def forward_from(self, hidden: Tensor, mask: Tensor, boundary: int) -> Tensor:
        """Return the embeddings, (B, E), float32, of hidden states at ``boundary``, (B, S, H)."""
        self._require_split(boundary)
        return self.pool(self._run(hidden, mask, boundary, self.num_layers), mask)

    @property
    def max_length(self) -> int | None:
        """Longest input in tokens, with the special ones; None without a limit."""
        return self.layout.max_length

    @property
    def num_layers(self) -> int:
        """Number of layers above the embeddings."""
        return len(self._parts) - 1

    @property
    def config(self) -> PreTrainedConfig:
        """The backbone's transformers config."""
        return self.backbone.config

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers, bottom-up: "embeddings", "layer.0", ..."""
        return list(self._parts)

    @property
    def adapter_names(self) -> list[str]:
        """Names of the adapters, which are layers of their own beside ``layer_names``: "lora.0", ..."""
        return list(self._adapters())

    def _adapters(self) -> dict[str, list[nn.Module]]:
        adapters = {
            adapter_of(layer): [part for module in modules for part in adapter_modules(module)]
            for layer, modules in self._parts.items()
        }
        return {name: modules for name, modules in adapters.items() if modules}

    def layer_modules(self, name: str) -> list[nn.Module]:
        """Return the modules of a layer or of an adapter.

        Those of all layers are disjoint and hold all that has a training mode. Those of an adapter lie within its
        layer: set the mode of the layer first.
        """
        return list(self._parts[name] if name in self._parts else self._adapters()[name])

    def layer_parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters of a layer, without those of its adapters, or of an adapter; see `named_by_layer`."""
        return self.named_by_layer()[name]

    def named_by_layer(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return the parameters of all layers and adapters, each of one, with their names in ``named_parameters()``."""
        # adapters lie within layers and come first, so that their parameters are their own
        return parameters_by_layer(self, {**self._adapters(), **self._parts})

    def use_plain_attention(self) -> None:
        """Compute attention in plain operations, where the family allows it: they train faster on a CPU."""
        if self.config.model_type in _PLAIN_FAMILIES and not getattr(self.config, "is_decoder", False):
            self.backbone.set_attn_implementation(attention.NAME)

    def save(self, folder: Path) -> None:
        """Write the encoder in the hub's layout; with a tokenizer beside it sentence-transformers loads the folder."""
        with quiet():
            self.backbone.save_pretrained(folder)
        for name, content in layout_files(self.layout, self.hidden_size).items():
            write_json(folder / name, content)
        for path, module in zip(dense_folders(self.layout), self.dense, strict=True):
            tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
            save_file(tensors, folder / path / DENSE_WEIGHTS, metadata={"format": "pt"})

    def _run(self, hidden: Tensor, mask: Tensor, first: int, last: int) -> Tensor:
        """Run layers ``first`` to ``last - 1``; on a CPU over real tokens alone, where the family allows it."""
        if first == last:
            return hidden
        if self._packable(hidden, mask):
            bias = self.backbone.encoder.attention_bias(hidden, None)[0] if is_mpnet(self.backbone) else None
            dtype = compute_dtype(hidden)
            return run_packed(self._packed_layers(dtype)[first:last], hidden, mask, bias, dtype)
        if is_mpnet(self.backbone):
            added = self.backbone.encoder.attention_bias(hidden, mask)
        else:  # None if there is nothing to mask
            added = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=mask)
        for layer in self._layers[first:last]:
            output = layer(hidden, added)
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Make the weights ready once for all passes without a graph inside the block; they must not change in it.

        A CPU casts them to the type to compute in, autocast's where that is on, and puts them in the order in which it
        reads them; otherwise each pass does. Elsewhere nothing is done. A block within another one for the same type
        uses what that has prepared. Of other blocks in several threads the first to end ends all: in the others each
        pass then makes its own.
        """
        weight = next(self.parameters())
        if self._known_on(weight.device):
            dtype = compute_dtype(weight)
            ready = self._ready
            if ready is not None and ready[0] == dtype:
                yield
                return
            with torch.no_grad():
                self._ready = dtype, [PackedLayer.of(layer).made_ready(dtype) for layer in self._layers]
        try:
            yield
        finally:
            self._ready = None

    def _packed_layers(self, dtype: torch.dtype) -> list[PackedLayer]:
        ready = self._ready  # read once: another thread may be at its end
        if ready is not None and ready[0] == dtype and not torch.is_grad_enabled():
            return ready[1]
        return [PackedLayer.of(layer) for layer in self._layers]

    def _packable(self, hidden: Tensor, mask: Tensor) -> bool:
        """Whether `run_packed` takes the batch; a row without any token has nothing to attend to."""
        return self._known_on(hidden.device) and bool(mask.any(dim=1).all())

    def _known_on(self, device: torch.device) -> bool:
        known = self.supports_split and self.config.model_type in FAMILIES
        return known and device.type == "cpu" and not self.is_sharded

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the embeddings, (B, E), float32, of the last hidden states, (B, S, H), and their mask, (B, S)."""
        embedding = pool(self.layout.pooling, hidden, mask)  # (B, k * H), float32
        for module in self.dense:
            embedding = module(embedding)
        return F.normalize(embedding, dim=-1) if self.layout.normalize else embedding

    def _require_split(self, boundary: int) -> None:
        if not self.supports_split:
            raise ValueError(f"a {self.config.model_type} cannot be split between its layers")
        if not 0 <= boundary <= self.num_layers:
            raise ValueError(f"boundary must be from 0 to {self.num_layers}, not {boundary}")


def _embedding_size(layout: SentenceLayout, hidden_size: int) -> int:
    """Return the size of an embedding; the Dense modules must take what comes before them."""
    size = hidden_size * len(layout.pooling.split("+"))
    for number, spec in enumerate(layout.dense, 1):
        if spec.in_features != size:
            found = f"{layout.pooling} pooling and {number - 1} Dense modules, which give {size} numbers"
            expected = f"{spec.in_features}, which Dense module {number} takes"
            raise ModelError(Problem("backbone.pooling", found, expected, "backbone.pooling=auto"))
        size = spec.out_features
    return size
