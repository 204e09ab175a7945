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
from core.protocol import Check, Proof, Trained, TrainTask, WorkFolder
from core.rendering.render import Renderer
from core.spec import Method, Quantization, Resolved, Training
from worker.engine.adapter import read_adapter
from worker.engine.data import probe_segments, rendered_examples
from worker.engine.execution import choose_precision
from worker.engine.generate import Generator, Sampling, ServableAdapter, read_servable
from worker.engine.lora import PREFIX
from worker.engine.loss import Head
from worker.engine.model import load_base, resolve_device, tensor_shapes
from worker.engine.model_folder import StoredModel, read_model
from worker.engine.pack import Segment
from worker.engine.perplexity import perplexities
from worker.engine.preference import REFERENCE, dpo
from worker.engine.resident import Resident
from worker.engine.served_loss import ROWS, log_likelihood, mean_loss_served, served_states

TRAINED = "trained.json"  # core.protocol.Trained as the engine reported it, below the work folder's root
_NAME = "proof"  # of the adapter on the base meanwhile
_READ_EXAMPLES = 64  # of the training file, the first; the shortest of their answers are probed
_PROBES = 8
_GREEDY_TRIES = 4
_GREEDY_TOKENS = 256  # of one try, at most
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
    base_folder, resolved = Path(task.base_folder), task.resolved
    precision = choose_precision(resolve_device(task.device))  # as a whole model is served
    if task.execution is not None and resolved.training is Training.LORA:
        precision = task.execution.precision
    model = resident.base(
        base_folder,
        task.base_revision,
        resolved.quantization,
        precision,
        task.device,
        double_quantization=resolved.double_quantization,
    )
    generator = Generator(model, Renderer.from_folder(base_folder, task.template_date))
    try:
        proof = _Prover(generator, folder, task, trained).prove()
    finally:
        generator.lora.detach()
    if not (resolved.compare_quantizations and proof.passed):
        return proof
    adapter = read_servable(folder.published)
    probe = probe_segments(folder, adapter.renderer, resolved.max_example_tokens, resolved.method, resolved.too_long)
    found = perplexities(resident, task, adapter.stored, precision, probe)
    return proof.model_copy(update={"perplexities": found})


@dataclass(frozen=True)
class _Side:
    """The base or what was trained, ready to be asked."""

    generator: Generator
    adapter: str | None

    def activate(self) -> Generator:
        self.generator.lora.activate(self.adapter)
        return self.generator


class _Prover:
    """Runs the checks in an order in which each may rest on those before it."""

    def __init__(self, generator: Generator, folder: WorkFolder, task: TrainTask, trained: Trained) -> None:
        self._generator = generator  # of the base
        self._base = _Side(generator, None)
        self._tuned = _Side(generator, _NAME)
        self._folder = folder
        self._task = task
        self._trained = trained
        self._checks: list[Check] = []
        self._server_loss: float | None = None
        self._logit_change: float | None = None

    @torch.no_grad()
    def prove(self) -> Proof:
        stored = self._loads()
        mapped = stored is not None and self._every_tensor_mapped(stored)
        if stored is not None:
            self._template_hash(stored.renderer)
        if stored is not None and mapped:
            answers = shortest_answers(self._folder.training, stored.renderer, self._task.resolved)
            self._changes_logits(answers)
            self._validation_loss(stored.renderer)
            self._end_token(answers, stored.renderer)
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

    def _loads(self) -> ServableAdapter | StoredModel | None:
        is_full = self._task.resolved.training is Training.FULL
        try:
            stored = read_model(self._folder.published) if is_full else read_servable(self._folder.published)
        except AttuneError as error:
            self._checks.append(Check(name="loads", passed=False, detail=error.message))
            return None
        sha256 = stored.sha256 if isinstance(stored, StoredModel) else stored.stored.sha256
        same = sha256 == self._trained.adapter_sha256
        detail = f"sha256 {sha256}" + ("" if same else f", but the trainer wrote {self._trained.adapter_sha256}")
        self._checks.append(Check(name="loads", passed=same, detail=detail))
        return stored

    def _every_tensor_mapped(self, stored: ServableAdapter | StoredModel) -> bool:
        """All of it has its place in the base, and all places that were to be filled are."""
        try:
            detail, faults = self._place_model(stored) if isinstance(stored, StoredModel) else self._place(stored)
        except AttuneError as error:
            detail, faults = "", [error.message]
        self._checks.append(Check(name="every_tensor_mapped", passed=not faults, detail="; ".join(faults) or detail))
        return not faults

    def _place_model(self, stored: StoredModel) -> tuple[str, list[str]]:
        """The tensors are the base's, name for name and shape for shape; then the model is loaded."""
        model = self._generator.model
        shared = set(model.all_tied_weights_keys)  # written or not, they are another's
        base = {k: v for k, v in tensor_shapes(Path(self._task.base_folder)).items() if k not in shared}
        found = {k: v for k, v in tensor_shapes(stored.folder).items() if k not in shared}
        odd = sorted(name for name in base.keys() | found.keys() if base.get(name) != found.get(name))
        if odd:
            return "", [f"{len(odd)} tensors are not as the base has them, such as {odd[0]}"]
        precision = "float32" if model.dtype == torch.float32 else "bfloat16"
        tuned = load_base(stored.folder, Quantization.NONE, precision, self._task.device)
        self._tuned = _Side(Generator(tuned, stored.renderer), None)
        return f"all {len(found)} tensors as the base has them", []

    def _place(self, adapter: ServableAdapter) -> tuple[str, list[str]]:
        """Every tensor finds its linear (`add` refuses leftovers, missing partners and wrong shapes), every linear
        that was to be adapted finds its tensors, and rank and scale are those of the task."""
        self._generator.add(_NAME, adapter)
        lora, expected = self._generator.lora, self._task.resolved.lora
        assert expected is not None
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
        return f"all {len(adapter.stored.tensors)} tensors on {len(found)} layers, none left over", faults

    def _wanted_layers(self) -> set[str]:
        if self._folder.start_adapter.exists():  # continued training keeps to the layers it found
            names = read_adapter(self._folder.start_adapter).tensors
            return {name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in names}
        assert self._task.resolved.lora is not None
        paths, targets = self._generator.lora.paths, self._task.resolved.lora.target_modules
        if targets == "all-linear":
            return set(paths)
        endings = tuple("." + name for name in targets)
        return {path for path in paths if ("." + path).endswith(endings)}

    def _template_hash(self, renderer: Renderer) -> None:
        expected, found = self._generator.renderer(None).template.hash, renderer.template.hash
        detail = f"sha256 {found}" if found == expected else f"{found} instead of {expected}, which the base has"
        self._checks.append(Check(name="template_hash", passed=found == expected, detail=detail))

    def _changes_logits(self, answers: Sequence[_Answer]) -> None:
        """The largest change of any logit within the probed answers. An adapter of zeros changes none."""
        change = floor = size = 0.0
        for answer in answers:
            base, again = _logits(self._base, answer), _logits(self._base, answer)
            tuned = _logits(self._tuned, answer)
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
        probe = probe_segments(self._folder, renderer, resolved.max_example_tokens, resolved.method, resolved.too_long)
        supervised = sum(int(segment.mask.sum()) for segment in probe)
        # LLM.int8() rounds an example's input by what else is in its pack
        rounds = resolved.quantization is Quantization.INT8
        relative, absolute = _TOLERANCE[torch.bfloat16 if rounds else self._generator.model.dtype]
        if resolved.method is Method.DPO:
            assert resolved.beta is not None
            server = self._preference_loss(probe, resolved.beta)
            pairs = len(probe) // 2
            of = f"pair on {pairs} pairs"
            # A margin adds up the rounding of all tokens of a pair, as independent errors do
            absolute *= max(1.0, resolved.beta * math.sqrt(supervised / max(pairs, 1)))
        else:
            server = mean_loss_served(self._tuned.activate().model, probe)
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
        model = self._generator.model
        head = Head(model)
        for name in (_NAME, reference):
            lora.activate(name)
            likelihoods.append(torch.tensor([log_likelihood(model, head, segment) for segment in probe]))
        losses_P, _ = dpo(likelihoods[0], likelihoods[1], beta)
        return float(losses_P.mean())

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
            torch.stack([_logits(side, end)[-1].log_softmax(-1)[stop_ids].logsumexp(-1) for end in ends])
            for side in (self._base, self._tuned)
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
        tries, tuned = 0, self._tuned.generator
        for end in ends[:_GREEDY_TRIES]:
            room = self._generator.context_tokens - end.start
            limit = min(2 * end.tokens + 16, _GREEDY_TOKENS, room)
            if end.start == 0 or limit < end.tokens:
                continue
            tries += 1
            sampling = Sampling(max_tokens=limit, temperature=0.0)
            generation = tuned.begin(end.token_ids[: end.start], sampling, self._tuned.adapter)
            while not generation.done:
                for delta in tuned.step(generation):
                    if delta.finish_reason == "stop":
                        return tries, True
        return tries, False


def _logits(side: _Side, answer: _Answer) -> Tensor:
    """Logits that predict the answer's tokens, the last ROWS of them: (S, V) float32."""
    model = side.activate().model
    hidden_TD = served_states(model, torch.tensor(answer.token_ids))
    return Head(model).logits(hidden_TD[answer.start - 1 : -1][-ROWS:])


def shortest_answers(training: Path, renderer: Renderer, resolved: Resolved) -> list[_Answer]:
    """The last supervised answers of the first training examples, the shortest sequences first."""
    answers: list[_Answer] = []
    method, limit = resolved.method, resolved.max_example_tokens
    for _, sequences in islice(rendered_examples(training, renderer, limit, method, resolved.too_long), _READ_EXAMPLES):
        # Of a pair the preferred answer alone is one to end as
        for rendered in sequences[:1] if method is Method.DPO else sequences:
            end = len(rendered.mask) - rendered.mask[::-1].index(True)
            start = end
            while start > 1 and rendered.mask[start - 1]:
                start -= 1
            answers.append(_Answer(rendered.token_ids[:end], start))
    answers.sort(key=lambda answer: len(answer.token_ids))
    return answers[:_PROBES]
