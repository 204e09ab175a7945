"""From a checked request and the model it asks for to a generation that can run: rendered, sampled, held to a form.

Imports torch inside its functions: the server answers /health before torch is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import AttuneError
from core.rendering.tool_form import ToolForm
from worker.serve.chat_request import ChatRequest, ToolChoice
from worker.serve.residency import Borrowed
from worker.serve.text_request import MAX_TOKENS, TextRequest
from worker.serve.tool_calls import ToolCallReader

if TYPE_CHECKING:
    from worker.engine.constrain import Grammar
    from worker.engine.generate import Generation, Sampling


def begin_chat(borrowed: Borrowed, wanted: ChatRequest) -> Generation:
    """Render with the model's frozen template. Raises AttuneError for what it refuses, or what does not fit."""
    sampling = _sampling(
        wanted,
        max_tokens=wanted.max_completion_tokens or wanted.max_tokens,
        top_logprobs=(wanted.top_logprobs or 0) if wanted.logprobs else None,
    )
    renderer = borrowed.generator.renderer(borrowed.adapter)
    tools = wanted.offered_tools
    form = _form(renderer.tool_form) if tools else None
    opening = form.forced if form and _forced(wanted) else ""
    prompt_ids = renderer.render_prompt(wanted.messages, tools or None, opening=opening)
    grammar = _tool_grammar(form, wanted) if form else _format_grammar(wanted)
    return borrowed.generator.begin(
        prompt_ids, sampling, borrowed.adapter, grammar, adapter_scale=_adapter_scale(borrowed, wanted)
    )


def begin_text(borrowed: Borrowed, wanted: TextRequest) -> Generation:
    """Go on from a plain prompt. Raises AttuneError for one that does not fit, or that holds control tokens."""
    sampling = _sampling(wanted, max_tokens=wanted.max_tokens or MAX_TOKENS, top_logprobs=wanted.logprobs)
    prompt_ids = borrowed.generator.renderer(borrowed.adapter).render_text_prompt(wanted.prompt_text)
    scale = _adapter_scale(borrowed, wanted)
    return borrowed.generator.begin(prompt_ids, sampling, borrowed.adapter, adapter_scale=scale)


def _sampling(wanted: ChatRequest | TextRequest, *, max_tokens: int | None, top_logprobs: int | None) -> Sampling:
    from worker.engine.generate import Sampling

    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if wanted.temperature is None else wanted.temperature,
        top_p=wanted.top_p or 1.0,
        n=wanted.n or 1,
        seed=wanted.seed,
        stop=wanted.stop_strings,
        top_logprobs=top_logprobs,
        frequency_penalty=wanted.frequency_penalty or 0.0,
        presence_penalty=wanted.presence_penalty or 0.0,
        logit_bias=tuple((int(key), bias) for key, bias in (wanted.logit_bias or {}).items()),
    )


def _adapter_scale(borrowed: Borrowed, wanted: ChatRequest | TextRequest) -> float:
    """Raises AttuneError where there is no adapter whose scale could be another."""
    scale = None if wanted.attune is None else wanted.attune.adapter_scale
    if scale is None:
        return 1.0
    if borrowed.adapter is None:
        raise AttuneError(
            f"attune.adapter_scale: '{wanted.model}' has no adapter, since it is a base or was trained whole; leave "
            "the scale out, or ask a model that was trained with LoRA",
            code="adapter_scale_unsupported",
            param="attune.adapter_scale",
        )
    return scale


def call_reader(borrowed: Borrowed, wanted: ChatRequest) -> ToolCallReader | None:
    """What finds the tool calls in one answer; None where none can be."""
    if not wanted.offered_tools:
        return None
    form = _form(borrowed.generator.renderer(borrowed.adapter).tool_form)
    return ToolCallReader(form, wanted.functions, forced=_forced(wanted), single=_single(wanted))


def _forced(wanted: ChatRequest) -> bool:
    return wanted.tool_choice == "required" or isinstance(wanted.tool_choice, ToolChoice)


def _single(wanted: ChatRequest) -> bool:
    return wanted.parallel_tool_calls is False or isinstance(wanted.tool_choice, ToolChoice)


def _form(form: ToolForm | None) -> ToolForm:
    if form is None:
        raise AttuneError(
            "tools: this model's chat template does not show functions to the model, or writes calls in a form that "
            "is not read here; choose a base made for tool calls, or remove tools",
            code="tools_unsupported",
            param="tools",
        )
    return form


def _tool_grammar(form: ToolForm, wanted: ChatRequest) -> Grammar | None:
    from worker.engine.tool_grammar import tool_grammar

    functions = wanted.functions
    if isinstance(wanted.tool_choice, ToolChoice):
        functions = {name: one for name, one in functions.items() if name == wanted.tool_choice.function.name}
    offered = {name: (one.parameters or {"type": "object"}, bool(one.strict)) for name, one in functions.items()}
    if _forced(wanted):
        return tool_grammar(form, offered, calls="one" if _single(wanted) else "some")
    if not any(strict for _, strict in offered.values()):
        return None
    if not form.opens:
        raise AttuneError(
            "tools: strict functions can be held to their schema only with tool_choice required or a named function, "
            "since this model's calls have no opening mark; set tool_choice, or leave strict out",
            code="strict_unsupported",
            param="tools",
        )
    return tool_grammar(form, offered, calls="any")


def _format_grammar(wanted: ChatRequest) -> Grammar | None:
    """What `response_format` asks the answers to be."""
    from worker.engine.constrain import json_grammar

    wish = wanted.response_format
    if wish is None or wish.type == "text":
        return None
    if wish.json_schema is None:
        return json_grammar({"type": "object"}, "response_format")
    return json_grammar(wish.json_schema.definition, "response_format", lenient=not wish.json_schema.strict)
