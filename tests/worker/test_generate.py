"""Generation against the slow and obvious way: the whole sequence through the model again for every token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import AttuneError
from core.rendering.render import Renderer
from tests.engine.tiny_base import make_tokenizer
from tests.worker.trained import QUESTIONS, TrainedJob
from worker.engine import generate
from worker.engine.answer import Answer, Piece, TokenLogprob
from worker.engine.generate import Delta, Generation, Generator, Sampling, read_servable, sample_token

GREEDY = Sampling(max_tokens=24, temperature=0.0)
QUESTION = next(iter(QUESTIONS))


@pytest.fixture(scope="module")
def generator(job: TrainedJob) -> Iterator[Generator]:
    task = job.task
    model = job.resident.base(job.base, task.base_revision, task.resolved.quantization, "float32", task.device)
    generator = Generator(model, Renderer.from_folder(job.base, task.template_date))
    generator.add("tuned", read_servable(job.folder.published))
    generator.add("reversed", read_servable(job.folder.published))
    for factors in (layer.factors["reversed"] for layer in generator.lora.layers.values()):
        factors.b.data.mul_(-1.0)
    yield generator
    generator.lora.detach()


def prompt(generator: Generator, adapter: str | None = "tuned", question: str = QUESTION) -> list[int]:
    return generator.renderer(adapter).render_prompt([{"role": "user", "content": question}])


def finish(generator: Generator, generation: Generation) -> list[Delta]:
    deltas: list[Delta] = []
    while not generation.done:
        deltas += generator.step(generation)
    return deltas


def texts(generator: Generator, sampling: Sampling, adapter: str | None = "tuned") -> list[str]:
    deltas = finish(generator, generator.begin(prompt(generator, adapter), sampling, adapter))
    return ["".join(delta.text for delta in deltas if delta.index == i) for i in range(sampling.n)]


@torch.no_grad()
def obvious(generator: Generator, adapter: str | None, tokens: int) -> list[int]:
    """Greedy ids without any cache, up to a stop id."""
    generator.lora.activate(adapter)
    ids = prompt(generator, adapter)
    start = len(ids)
    while len(ids) - start < tokens:
        ids.append(int(generator.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in generator.renderer(adapter).template.stop_ids:
            return ids[start:-1]
    return ids[start:]


@pytest.mark.parametrize("adapter", [None, "tuned", "reversed"])
def test_greedy_equals_the_obvious_way(generator: Generator, adapter: str | None) -> None:
    generation = generator.begin(prompt(generator, adapter), GREEDY, adapter)
    finish(generator, generation)
    assert generation.sequences[0].answer.token_ids == obvious(generator, adapter, 24)


def test_the_three_models_answer_differently(generator: Generator) -> None:
    assert len({tuple(texts(generator, GREEDY, name)) for name in (None, "tuned", "reversed")}) == 3


def test_requests_of_several_adapters_take_turns_without_touching_each_other(generator: Generator) -> None:
    names = ("tuned", None, "reversed", "tuned")
    alone = [texts(generator, GREEDY, name) for name in names]
    live = [generator.begin(prompt(generator, name), GREEDY, name) for name in names]
    said = ["" for _ in names]
    while not all(generation.done for generation in live):
        for i, generation in enumerate(live):
            if not generation.done:
                said[i] += "".join(delta.text for delta in generator.step(generation))
    assert [[text] for text in said] == alone


def test_a_scale_is_of_one_request_alone(generator: Generator) -> None:
    """0 is the base, 1 the model, 2 what twice the factors say; while others take their turns."""

    def begin(adapter: str | None, scale: float = 1.0) -> Generation:
        shown = Sampling(max_tokens=24, temperature=0.0, top_logprobs=1)
        return generator.begin(prompt(generator), shown, adapter, adapter_scale=scale)

    def outcome(deltas: list[Delta]) -> list[TokenLogprob]:
        return [logprob for delta in deltas for logprob in delta.logprobs]

    base, tuned = (outcome(finish(generator, begin(name))) for name in (None, "tuned"))
    for layer in generator.lora.layers.values():
        layer.factors["tuned"].b.data.mul_(2.0)
    doubled = outcome(finish(generator, begin("tuned")))
    for layer in generator.lora.layers.values():
        layer.factors["tuned"].b.data.mul_(0.5)
    scales = (0.0, 1.0, 2.0, 0.5)
    live = [begin("tuned", scale) for scale in scales]
    deltas: list[list[Delta]] = [[] for _ in scales]
    while not all(generation.done for generation in live):
        for i, generation in enumerate(live):
            if not generation.done:
                deltas[i] += generator.step(generation)
    nothing, whole, twice, half = map(outcome, deltas)
    assert (nothing, whole) == (base, tuned)
    assert [token.token_id for token in twice] == [token.token_id for token in doubled]
    assert half not in (base, tuned)


def test_a_long_prompt_comes_in_parts(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = texts(generator, GREEDY)
    monkeypatch.setattr(generate, "PREFILL_TOKENS", 7)
    generation = generator.begin(prompt(generator), GREEDY, "tuned")
    assert generator.step(generation) == []
    assert generation.prefilled == 7
    assert ["".join(delta.text for delta in finish(generator, generation))] == whole


def test_a_seed_decides_the_text(generator: Generator) -> None:
    def said(seed: int | None, n: int = 1) -> list[str]:
        return texts(generator, Sampling(max_tokens=16, seed=seed, n=n))

    assert said(5) == said(5)
    assert said(5) != said(6)
    assert said(None) != said(None)
    three = said(5, n=3)
    assert len(set(three)) == 3
    assert three == said(5, n=3)
    assert said(6, n=2)[0] != three[1], "neighbouring seeds must not share answers"


def test_answers_that_end_leave_the_others_alone(generator: Generator) -> None:
    sampling = Sampling(max_tokens=40, n=8, seed=1)
    generation = generator.begin(prompt(generator), sampling, "tuned")
    rows = {generation.cache.get_seq_length()}
    deltas: list[Delta] = []
    while not generation.done:
        deltas += generator.step(generation)
        if generation.live:
            rows.add(generation.cache.layers[0].keys.shape[0])
    ends = [delta.finish_reason for delta in deltas if delta.finish_reason]
    assert len(ends) == 8
    assert "stop" in ends
    assert len(rows - {0}) > 1, "finished answers must leave the cache"
    assert generation.completion_tokens == sum(s.answer.sampled_tokens for s in generation.sequences)


def test_max_tokens_ends_with_length_and_the_end_token_with_stop(generator: Generator) -> None:
    short = finish(generator, generator.begin(prompt(generator), Sampling(max_tokens=2, temperature=0), "tuned"))
    assert short[-1].finish_reason == "length"
    generation = generator.begin(prompt(generator), Sampling(temperature=0.0), "tuned")
    assert finish(generator, generation)[-1].finish_reason == "stop"
    assert generation.completion_tokens == len(generation.sequences[0].answer.token_ids) + 1


def test_what_does_not_fit_the_context_is_refused_in_openais_words(generator: Generator) -> None:
    room = generator.context_tokens - 10
    for length, max_tokens in ((10, room + 1), (generator.context_tokens, None)):
        with pytest.raises(AttuneError, match="maximum context length is 512 tokens") as caught:
            generator.begin([5] * length, Sampling(max_tokens=max_tokens))
        assert (caught.value.code, caught.value.status) == ("context_length_exceeded", 400)
    generation = generator.begin([5] * (generator.context_tokens - 3), Sampling(logit_bias=((2, -100.0),)))
    assert finish(generator, generation)[-1].finish_reason == "length"
    assert generation.completion_tokens == 3


@torch.no_grad()
def test_logprobs_are_of_the_raw_distribution(generator: Generator) -> None:
    sampling = Sampling(max_tokens=6, temperature=2.0, top_p=0.5, seed=3, top_logprobs=3, presence_penalty=1.5)
    generation = generator.begin(prompt(generator), sampling, "tuned")
    shown = [logprob for delta in finish(generator, generation) for logprob in delta.logprobs]
    answered = generation.sequences[0].answer.token_ids
    assert [logprob.token_id for logprob in shown] == answered
    generator.lora.activate("tuned")
    ids = prompt(generator) + answered
    expected_TV = generator.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    for place, logprob in enumerate(shown, len(ids) - len(answered) - 1):
        assert logprob.logprob == pytest.approx(float(expected_TV[place, logprob.token_id]), abs=1e-4)
        best = expected_TV[place].topk(3)
        assert [token for token, _ in logprob.top] == best.indices.tolist()


def test_sampling_follows_its_numbers() -> None:
    logits_V = torch.tensor([2.0, 1.0, 0.0, -1.0])

    def drawn(so_far: tuple[int, ...] = (), draws: int = 400, **numbers: object) -> list[int]:
        random = torch.Generator().manual_seed(0)
        sampling = Sampling(**numbers)  # pyright: ignore[reportArgumentType]
        return [sample_token(logits_V, sampling, so_far, random) for _ in range(draws)]

    assert set(drawn(temperature=0.0)) == {0}
    assert set(drawn(top_p=1e-6)) == {0}
    assert set(drawn(top_p=0.7)) == {0, 1}  # softmax: 0.64, 0.24, 0.09, 0.03
    assert set(drawn()) == {0, 1, 2, 3}
    frequencies = torch.bincount(torch.tensor(drawn(draws=4000)), minlength=4) / 4000
    assert torch.allclose(frequencies, logits_V.softmax(-1), atol=0.03)
    assert set(drawn(temperature=0.0, logit_bias=((0, -100.0), (99, 5.0)))) == {1}
    assert set(drawn(so_far=(0, 0), temperature=0.0, frequency_penalty=0.6)) == {1}
    assert set(drawn(so_far=(0,), temperature=0.0, frequency_penalty=0.6)) == {0}
    assert set(drawn(so_far=(0,), temperature=0.0, presence_penalty=1.5)) == {1}
    assert logits_V.tolist() == [2.0, 1.0, 0.0, -1.0]


class _Tokens:
    """A tokenizer of bytes and a few longer tokens, as an answer sees it."""

    def __init__(self) -> None:
        self.tokenizer = make_tokenizer()

    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special)


TOKENS = _Tokens()
SIZE = TOKENS.tokenizer.get_vocab_size()
END = TOKENS.tokenizer.token_to_id("<|im_end|>")


def answer(ids: list[int], stop: tuple[str, ...] = (), max_tokens: int = 10_000) -> list[Piece]:
    made = Answer(TOKENS, stop_ids=[END], stop=stop, max_tokens=max_tokens)
    pieces: list[Piece] = []
    for token_id in [*ids, END]:
        pieces.append(made.add(token_id, TokenLogprob(token_id, -1.0)))
        if pieces[-1].finish_reason:
            break
    return pieces


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet=st.sampled_from("ab é€🙂👩‍👧ß\n"), max_size=40))
def test_text_comes_in_whole_characters(text: str) -> None:
    pieces = answer(TOKENS.tokenizer.encode(text, add_special_tokens=False).ids)
    assert "".join(piece.text for piece in pieces) == text
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert pieces[-1].finish_reason == "stop"


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(3, SIZE - 1), max_size=30))
def test_any_tokens_give_the_text_that_they_give_together(ids: list[int]) -> None:
    pieces = answer(ids)
    assert "".join(piece.text for piece in pieces) == TOKENS.decode(ids).rstrip("\ufffd")
    for piece in pieces:
        piece.text.encode()  # whole UTF-8
    assert [logprob.token_id for piece in pieces for logprob in piece.logprobs] == ids


@settings(deadline=None, max_examples=200)
@given(
    st.text(alphabet="ab€", max_size=30),
    st.lists(st.text(alphabet="ab€", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_stop_string_ends_the_answer_and_no_part_of_it_is_sent(text: str, stop: list[str]) -> None:
    pieces = answer(TOKENS.tokenizer.encode(text, add_special_tokens=False).ids, stop=tuple(stop))
    found = [(at + len(one), at) for one in stop if (at := text.find(one)) >= 0]
    assert "".join(piece.text for piece in pieces) == text[: min(found, default=(0, len(text)))[1]]
    assert pieces[-1].finish_reason == "stop"


def test_logprobs_stay_with_their_text() -> None:
    ids = TOKENS.tokenizer.encode("x€y STOP z", add_special_tokens=False).ids
    pieces = answer(ids, stop=(" STOP",))
    assert "".join(piece.text for piece in pieces) == "x€y"
    shown = [logprob.token_id for piece in pieces for logprob in piece.logprobs]
    assert TOKENS.decode(shown).startswith("x€y")
    assert shown == ids[: len(shown)]
    assert len(shown) < len(ids)
    cut = answer(ids, max_tokens=2)
    assert (cut[-1].finish_reason, cut[-1].text) == ("length", ""), "half a character is not sent"
