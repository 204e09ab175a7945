"""The prompts that a job answers at each checkpoint: from what a user wrote to the token ids that are served."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import AttuneError
from core.rendering.render import Renderer
from core.spec import SamplePrompt

ANSWER_TOKENS = 128  # of one answer, at most


def prompt_ids(renderer: Renderer, prompt: SamplePrompt, *, as_chat: bool) -> list[int]:
    """What the server would feed. `as_chat`: a text is a user's message, else a plain prompt."""
    if isinstance(prompt, str) and not as_chat:
        return renderer.render_text_prompt(prompt)
    messages = [("user", prompt)] if isinstance(prompt, str) else [(one.role, one.content) for one in prompt]
    return renderer.render_prompt([{"role": role, "content": content} for role, content in messages])


def check_prompts(renderer: Renderer, prompts: Sequence[SamplePrompt], context: int) -> None:
    """Raises AttuneError (invalid_sample_prompt) naming the prompt that this base cannot be asked."""
    for index, prompt in enumerate(prompts):
        try:
            as_chat = renderer.template.chat_template is not None
            length = len(prompt_ids(renderer, prompt, as_chat=as_chat))
        except AttuneError as error:
            raise _refused(index, error.message) from error
        if length >= context:
            raise _refused(index, f"it has {length} tokens, and this base reads {context} with its answer")


def _refused(index: int, why: str) -> AttuneError:
    return AttuneError(
        f"sample_prompts[{index}] cannot be asked: {why}. Change or remove it.",
        code="invalid_sample_prompt",
        param=f"attune.sample_prompts[{index}]",
    )
