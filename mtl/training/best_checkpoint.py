"""The checkpoint with the best validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

BEST: Final = "best.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the weights of the best validation.

    Args:
        folder: Where the checkpoints are.
        monitor: The figure that is compared; larger is better.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        super().__init__(
            folder,
            filename=Path(BEST).stem,
            monitor=monitor,
            mode="max",
            save_weights_only=True,
            save_on_train_epoch_end=False,  # but after each validation: max_steps may end an epoch without one
            enable_version_counter=False,
        )
        self._folder = folder

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether the figure is the best one; NaN, which Lightning saves where nothing stands yet, never is."""
        if current is not None and current.isnan():
            return False
        return bool(super().check_monitor_top_k(trainer, current))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state, also after the run folder was moved: Lightning would forget the best score then."""

        def moved(path: str) -> str:
            return str(self._folder / Path(path).name) if path else path

        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        super().load_state_dict(
            {
                **state_dict,
                **{name: moved(state_dict[name]) for name in paths},
                "best_k_models": best,
                "dirpath": self.dirpath,
            }
        )
