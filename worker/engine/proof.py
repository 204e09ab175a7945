"""The proof before `succeeded`: the bytes that storage gave back are loaded by the server's own loader and held
against what training measured. Six checks, each with what it saw in words.

Letters: T tokens, S supervised positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from core.errors import AttuneError
from core.examples import PreferencePair, iter_examples
from core.protocol import Check, Proof, Trained, TrainTask, WorkFolder
from core.render import Renderer
from core.spec import Method
from worker.engine.adapter import read_adapter
from worker.engine.data import probe_segments
from worker.engine.execution import choose_precision
from worker.engine.generate import Generator, Sampling, ServableAdapter, read_servable
from worker.engine.lora import PREFIX
from worker.engine.loss import Head
from worker.engine.model import resolve_device
from worker.engine.pack import Segment
from worker.engine.preference import REFERENCE, dpo
from worker.engine.resident import Resident

TRAINED = "trained.json"  # core.protocol.Trained as the engine reported it, below the work folder's root
_NAME = "proof"  # of the adapter on the base meanwhile
_READ_EXAMPLES = 64  # of the training file, the first; the shortest of their answers are probed
_PROBES = 8
_GREEDY_TRIES = 4
_GREEDY_TOKENS = 256  # of one try, at most
_ROWS = 256  # of logits at once
# Change of a logit that counts as none, relative to the logits' size; a repeated base run sets the absolute floor
_NO_CHANGE = 1e-4
# Server's loss against trainer's: relative, and absolute in nats. The two add up in different orders, and
# bfloat16 keeps 8 bits; a wrong scale or a tensor in the wrong place shows in the first digit.
_TOLERANCE = {torch.float32: (1e-3, 1e-3), torch.bfloat16: (1e-2, 1e-2)}
_KEPT_END = 1.0  # nats that a preference may take from a stop token


@dataclass(frozen=True)
class _Answer:
    """A supervised answer of the training file, and what leads to it."""

    token_ids: list[int]  # to the answer's last supervised token, and with it
    start: int  # of the answer

    @property
    def tokens(self) -> int:
        return len(self.token_ids) - self.start


def prove(resident: Resident, folder: WorkFolder) -> Proof:
    """Judge `folder.published` over its base, which is left bare.

    Raises AttuneError only where the base itself cannot be loaded; a bad adapter gives a proof that did not pass.
    """
    task = TrainTask.model_validate_json(folder.task.read_bytes())
    trained = Trained.model_validate_json((folder.root / TRAINED).read_bytes())
    base_folder = Path(task.base_folder)
    precision = task.execution.precision if task.execution else choose_precision(resolve_device(task.device))
    model = resident.base(base_folder, task.base_revision, task.resolved.quantization, precision, task.device)
    generator = Generator(model, Renderer.from_folder(base_folder, task.template_date))
    try:
        return _Prover(generator, folder, task, trained).prove()
    finally:
        generator.lora.detach()


class _Prover:
    """Runs the checks in an order in which each may rest on those before it."""

    def __init__(self, generator: Generator, folder: WorkFolder, task: TrainTask, trained: Trained) -> None:
        self._generator = generator
        self._head = Head(generator.model)
        self._folder = folder
        self._task = task
        self._trained = trained
        self._checks: list[Check] = []
        self._server_loss: float | None = None
        self._logit_change: float | None = None

    @torch.no_grad()
    def prove(self) -> Proof:
        adapter = self._loads()
        mapped = adapter is not None and self._every_tensor_mapped(adapter)
        if adapter is not None:
            self._template_hash(adapter)
        if adapter is not None and mapped:
            answers = shortest_answers(self._folder.training, adapter.renderer)
            self._changes_logits(answers)
            self._validation_loss(adapter.renderer)
            self._end_token(answers, adapter.renderer)
        measured = {check.name for check in self._checks}
        for name in ("every_tensor_mapped", "template_hash", "changes_logits", "validation_loss", "end_token"):
            if name not in measured:
                self._checks.append(
                    Check(name=name, passed=False, detail="not measured: the adapter is not on its base")
                )
        return Proof(
            passed=all(check.passed for check in self._checks),
            checks=self._checks,
            validation_loss_trainer=self._trained.final_valid_loss,
            validation_loss_server=self._server_loss,
            max_logit_change=self._logit_change,
        )

    def _loads(self) -> ServableAdapter | None:
        try:
            adapter = read_servable(self._folder.published)
        except AttuneError as error:
            self._checks.append(Check(name="loads", passed=False, detail=error.message))
            return None
        same = adapter.stored.sha256 == self._trained.adapter_sha256
        detail = f"{len(adapter.stored.tensors)} tensors, sha256 {adapter.stored.sha256}"
        if not same:
            detail += f", but the trainer wrote {self._trained.adapter_sha256}"
        self._checks.append(Check(name="loads", passed=same, detail=detail))
        return adapter

    def _every_tensor_mapped(self, adapter: ServableAdapter) -> bool:
        """Every tensor finds its linear (`add` refuses leftovers, missing partners and wrong shapes), every linear
        that was to be adapted finds its tensors, and rank and scale are those of the task."""
        try:
            self._generator.add(_NAME, adapter)
        except AttuneError as error:
            self._checks.append(Check(name="every_tensor_mapped", passed=False, detail=error.message))
            return False
        lora, expected = self._generator.lora, self._task.resolved.lora
        wanted = self._wanted_layers()
        found = {path for path, layer in lora.layers.items() if _NAME in layer.factors}
        settings = adapter.stored.settings
        faults = (
            [f"{len(wanted - found)} layers have no tensors, such as {min(wanted - found)}"] if wanted - found else []
        )
        if found - wanted:
            faults.append(f"{len(found - wanted)} layers have tensors unasked, such as {min(found - wanted)}")
        if settings.rank != expected.rank or not math.isclose(settings.scale, expected.scale, rel_tol=1e-6):
            faults.append(
                f"rank {settings.rank} and scale {settings.scale:g} instead of {expected.rank} and {expected.scale:g}"
            )
        detail = (
            "; ".join(faults) or f"all {len(adapter.stored.tensors)} tensors on {len(found)} layers, none left over"
        )
        self._checks.append(Check(name="every_tensor_mapped", passed=not faults, detail=detail))
        return not faults

    def _wanted_layers(self) -> set[str]:
        if self._folder.start_adapter.exists():  # continued training keeps to the layers it found
            names = read_adapter(self._folder.start_adapter).tensors
            return {name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in names}
        paths, targets = self._generator.lora.paths, self._task.resolved.lora.target_modules
        if targets == "all-linear":
            return set(paths)
        endings = tuple("." + name for name in targets)
        return {path for path in paths if ("." + path).endswith(endings)}

    def _template_hash(self, adapter: ServableAdapter) -> None:
        expected, found = self._generator.renderer(None).template.hash, adapter.renderer.template.hash
        detail = f"sha256 {found}" if found == expected else f"{found} instead of {expected}, which the base has"
        self._checks.append(Check(name="template_hash", passed=found == expected, detail=detail))

    def _changes_logits(self, answers: Sequence[_Answer]) -> None:
        """The largest change of any logit within the probed answers. An adapter of zeros changes none."""
        change = floor = size = 0.0
        for answer in answers:
            base, again = self._logits(None, answer), self._logits(None, answer)
            tuned = self._logits(_NAME, answer)
            change = max(change, float((tuned - base).abs().max()))
            floor = max(floor, float((again - base).abs().max()))
            size = max(size, float(base.abs().max()))
        self._logit_change = change
        least = max(4 * floor, _NO_CHANGE * size)
        detail = f"a logit changes by up to {change:.4g} on {len(answers)} answers; up to {least:.2g} would be noise"
        self._checks.append(Check(name="changes_logits", passed=change > least, detail=detail))

    def _validation_loss(self, renderer: Renderer) -> None:
        """The trainer's probe set, each sequence alone through the server's forward pass."""
        resolved = self._task.resolved
        probe = probe_segments(self._folder, renderer, resolved.max_example_tokens, resolved.method)
        supervised = sum(int(segment.mask.sum()) for segment in probe)
        relative, absolute = _TOLERANCE[self._generator.model.dtype]
        if resolved.method is Method.DPO:
            assert resolved.beta is not None
            server = self._preference_loss(probe, resolved.beta)
            pairs = len(probe) // 2
            of = f"pair on {pairs} pairs"
            # A margin adds up the rounding of all tokens of a pair, as independent errors do
            absolute *= max(1.0, resolved.beta * math.sqrt(supervised / max(pairs, 1)))
        else:
            self._generator.lora.activate(_NAME)
            server = -sum(self._log_likelihood(segment) for segment in probe) / max(supervised, 1)
            of = f"token on {supervised} tokens"
        self._server_loss, trainer = server, self._trained.final_valid_loss
        tolerance = relative * abs(trainer) + absolute
        detail = f"{server:.6f} nats per {of}, {trainer:.6f} by the trainer; they may differ by {tolerance:.2g}"
        passed = abs(server - trainer) <= tolerance  # False for NaN
        self._checks.append(Check(name="validation_loss", passed=passed, detail=detail))

    def _preference_loss(self, probe: Sequence[Segment], beta: float) -> float:
        """Mean over pairs, against the reference that the trainer had."""
        lora, reference = self._generator.lora, None
        if self._folder.start_adapter.exists():
            stored, reference = read_adapter(self._folder.start_adapter), REFERENCE
            lora.add(reference, stored.settings, stored.tensors)
        likelihoods: list[Tensor] = []
        for name in (_NAME, reference):
            lora.activate(name)
            likelihoods.append(torch.tensor([self._log_likelihood(segment) for segment in probe]))
        losses_P, _ = dpo(likelihoods[0], likelihoods[1], beta)
        return float(losses_P.mean())

    def _log_likelihood(self, segment: Segment) -> float:
        """Nats of the segment's supervised tokens, by the active adapter."""
        tokens_T = torch.from_numpy(segment.token_ids.astype("int64"))
        rows_S = torch.from_numpy(segment.mask).nonzero().squeeze(1) - 1
        hidden_TD = self._hidden(tokens_T)
        nll = 0.0
        for part in rows_S.split(_ROWS):
            targets = tokens_T[part + 1].to(hidden_TD.device)
            nll += float(
                torch.nn.functional.cross_entropy(self._head.logits(hidden_TD[part]), targets, reduction="sum")
            )
        return -nll

    def _end_token(self, answers: Sequence[_Answer], renderer: Renderer) -> None:
        """Does the model end its answers?

        Passed if one greedy answer to a training prompt stops by itself; or if behind the trained answers a stop
        token is more likely than not, or likelier than it was for the base. The last is for jobs too short to
        answer well: learning the end at all shows there after few steps, while a model that was never taught it
        has moved probability from the stop token to the tokens that it was taught.

        Preferences do not teach the end, since both answers of a pair have one; there it is enough that the stop
        token is about as likely as it was for the base.
        """
        stop_ids = list(renderer.template.stop_ids)
        ends = [answer for answer in answers if answer.token_ids[-1] in stop_ids]
        if not ends:
            detail = "no probed training answer ends in a supervised stop token, so none was taught"
            self._checks.append(Check(name="end_token", passed=False, detail=detail))
            return
        base, tuned = (
            torch.stack([self._logits(name, end)[-1].log_softmax(-1)[stop_ids].logsumexp(-1) for end in ends])
            for name in (None, _NAME)
        )
        is_preference = self._task.resolved.method is Method.DPO
        least = float(base.mean()) - (_KEPT_END if is_preference else 0.0)
        likely, better = float(tuned.exp().mean()), float(tuned.mean()) > least
        tries, stopped = self._greedy_stops(ends, renderer)
        detail = (
            f"behind {len(ends)} training answers a stop token has probability {likely:.3f} "
            f"(the base: {float(base.exp().mean()):.3f}); "
            + (
                f"greedy answer {tries} of a training prompt stopped"
                if stopped
                else f"none of {tries} greedy answers stopped"
            )
        )
        self._checks.append(Check(name="end_token", passed=stopped or likely > 0.5 or better, detail=detail))

    def _greedy_stops(self, ends: Sequence[_Answer], renderer: Renderer) -> tuple[int, bool]:
        """(greedy answers tried, whether the last of them stopped within twice the trained answer's length)."""
        tries = 0
        for end in ends[:_GREEDY_TRIES]:
            room = self._generator.context_tokens - end.start
            limit = min(2 * end.tokens + 16, _GREEDY_TOKENS, room)
            if end.start == 0 or limit < end.tokens:
                continue
            tries += 1
            sampling = Sampling(max_tokens=limit, temperature=0.0)
            generation = self._generator.begin(end.token_ids[: end.start], sampling, _NAME)
            while not generation.done:
                for delta in self._generator.step(generation):
                    if delta.finish_reason == "stop":
                        return tries, True
        return tries, False

    def _logits(self, adapter: str | None, answer: _Answer) -> Tensor:
        """Logits that predict the answer's tokens, the last _ROWS of them: (S, V) float32."""
        self._generator.lora.activate(adapter)
        hidden_TD = self._hidden(torch.tensor(answer.token_ids))
        return self._head.logits(hidden_TD[answer.start - 1 : -1][-_ROWS:])

    def _hidden(self, tokens_T: Tensor) -> Tensor:
        """(T, width) as the server computes them: one sequence, unpacked."""
        model = self._generator.model
        return model.base_model(input_ids=tokens_T[None].to(model.device), use_cache=False).last_hidden_state[0]


def shortest_answers(training: Path, renderer: Renderer) -> list[_Answer]:
    """The last supervised answers of the first training examples, the shortest sequences first."""
    answers: list[_Answer] = []
    for _, example in islice(iter_examples(training), _READ_EXAMPLES):
        sequences = renderer.render_example(example)
        # Of a pair the preferred answer alone is one to end as
        for rendered in sequences[:1] if isinstance(example, PreferencePair) else sequences:
            end = len(rendered.mask) - rendered.mask[::-1].index(True)
            start = end
            while start > 1 and rendered.mask[start - 1]:
                start -= 1
            answers.append(_Answer(rendered.token_ids[:end], start))
    answers.sort(key=lambda answer: len(answer.token_ids))
    return answers[:_PROBES]
