"""Early stopping: the weights of the best validation are kept, and training ends when none better came for a while.

What counts is the loss over the whole validation file. The best weights travel in the snapshots, so that a resumed
run stops where the uninterrupted one does, with the same result.
"""

from __future__ import annotations

from torch import Tensor

from core.protocol import CheckpointSaved
from core.spec import Frozen


class Best(Frozen):
    """The best validation so far."""

    metrics: CheckpointSaved
    since: int = 0  # validations after it

    @property
    def loss(self) -> float:
        assert self.metrics.full_valid_loss is not None
        return self.metrics.full_valid_loss


class EarlyStopping:
    """Of one run. `take` every validation; the run is over when `is_over`, and `weights` are its result."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.best: Best | None = None
        self.weights: dict[str, Tensor] = {}

    def resume(self, best: Best | None, weights: dict[str, Tensor]) -> None:
        """Take up what a snapshot holds."""
        self.best, self.weights = best, weights

    def take(self, metrics: CheckpointSaved, weights: dict[str, Tensor]) -> None:
        """A validation's figures and the weights they are of, which are copied where they are the best."""
        loss = metrics.full_valid_loss
        if loss is None:
            return
        if self.best is None or loss < self.best.loss:
            self.best = Best(metrics=metrics)
            self.weights = {name: value.clone() for name, value in weights.items()}
        else:
            self.best = self.best.model_copy(update={"since": self.best.since + 1})

    @property
    def is_over(self) -> bool:
        return self.best is not None and self.best.since >= self._patience
