"""The two ways to find what is supervised agree: by the control tokens alone, and by every token's place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data.conversation import Conversation, Message
from core.errors import AttuneError
from core.rendering.render import Renderer
from core.rendering.turns import Turn, TurnMasks
from tests.core.chat_families import families

FAMILIES = {family.name: family for family in families()}
TRICKY = st.text(alphabet=" \n\tab.1'é\u0301👍你<|>[]/", min_size=1, max_size=12)
Spans = list[tuple[int, int]] | None


@pytest.fixture(scope="module")
def renderers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Renderer]:
    return {
        name: Renderer.from_folder(family.write(tmp_path_factory.mktemp(name)), "2026-01-01")
        for name, family in FAMILIES.items()
    }


class Compared(TurnMasks):
    """Asks both ways, and remembers what they said."""

    answers: list[tuple[Spans, Spans]]

    def spans_by_controls(self, text: str, ids: list[int], turns: Sequence[Turn]) -> Spans:
        found = super().spans_by_controls(text, ids, turns)
        assert ids == self._tokenizer.encode(text, add_special_tokens=False).ids
        self.answers.append((found, super().spans_by_offsets(text, turns)))
        return found


def compared(renderer: Renderer, turns: list[str]) -> list[tuple[Spans, Spans]]:
    both = Compared(renderer._tokenizer, renderer._special_ids, renderer._stop_ids)
    both.answers = []
    messages = tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(turns))
    ours, renderer._turns = renderer._turns, both
    try:
        renderer.render_example(Conversation(messages))
    except AttuneError:
        pass  # a control token in the text; what was asked before it counts
    finally:
        renderer._turns = ours
    return both.answers


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(TRICKY, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0))
def test_what_the_control_tokens_settle_is_what_the_offsets_say(
    renderers: dict[str, Renderer], turns: list[str]
) -> None:
    for renderer in renderers.values():
        for by_controls, by_offsets in compared(renderer, turns):
            assert by_controls in (None, by_offsets)


@pytest.mark.parametrize("family", ["qwen2.5", "smollm2", "llama3", "gemma3", "deepseek-r1"])
def test_common_conversations_are_settled_without_offsets(renderers: dict[str, Renderer], family: str) -> None:
    (answer,) = compared(renderers[family], ["What is 12 + 30?", "It is 42.", "And 1 + 1?", "2"])
    assert answer[0] is not None
    assert len(answer[0]) == 2
