"""What a run measures without learning from it: a look at part of the validation file, all of it, the probe set."""

from __future__ import annotations

import math

from transformers import PreTrainedModel

from core.errors import AttuneError
from core.spec import Resolved
from worker.engine.data import Dataset
from worker.engine.gradients import units_of
from worker.engine.loss import Mean, mean_loss
from worker.engine.pack import Segment
from worker.engine.parallel import World
from worker.engine.preference import Preference


class Validation:
    """Of one run. `data` is None without a validation file, `preference` for any method but dpo."""

    def __init__(
        self,
        model: PreTrainedModel,
        data: Dataset | None,
        preference: Preference | None,
        resolved: Resolved,
        world: World,
    ) -> None:
        self._model = model
        self._data = data
        self._preference = preference
        self._resolved = resolved
        self._world = world

    def at(self, step: int, micro_tokens: int, *, ends_epoch: bool) -> tuple[Mean | None, Mean | None]:
        """(a look at the fixed subset, the whole file), each where it falls on this step."""
        if self._data is None:
            return None, None
        resolved = self._resolved
        is_last = step == resolved.total_steps
        looks = is_last or step % resolved.validation_every_steps == 0
        may_stop = resolved.early_stopping_patience is not None
        few = full = None
        if is_last or ends_epoch or (looks and may_stop):
            full = self.mean(self._data.all_segments(), step, micro_tokens)
        if looks:
            few = self.mean(self._data.subset(), step, micro_tokens)
        return few, full

    def mean(self, segments: list[Segment], step: int, micro_tokens: int) -> Mean:
        """Each process measures its share. Raises AttuneError where the loss is not finite."""
        units = units_of(segments, self._preference is not None)
        shared = [units[i] for i in self._world.share([sum(len(s.token_ids) for s in unit) for unit in units])]
        own = [segment for unit in shared for segment in unit]
        preference = self._preference
        if preference is None:
            mean = self._world.all_or_none(lambda: mean_loss(self._model, own, micro_tokens))
            mean = self._world.overall(mean, mean.supervised_tokens)
        else:
            mean = self._world.all_or_none(lambda: preference.mean(own, micro_tokens))
            mean = self._world.overall(mean, len(shared))
        if not math.isfinite(mean.loss):
            raise AttuneError(
                f"step {step}: the validation loss is not finite; lower learning_rate_multiplier",
                code="loss_not_finite",
                param="hyperparameters.learning_rate_multiplier",
            )
        return mean
