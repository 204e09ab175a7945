"""A model in code to copy: asked over the API, loaded with peft, served by vLLM. No key stands in it."""

from __future__ import annotations

from urllib.parse import quote

from api.dashboard.rest import Json

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that its --max-lora-rank takes
Usage = tuple[str, str, str]  # library, when to take it, code


def usages(model: Json, address: str, rank: int | None) -> list[Usage]:
    """`address`: of the service, as whoever looks reaches it. `rank`: of the adapter.

    A base, or what another project shares, is not to be taken home.
    """
    found: list[Usage] = [("openai", "Any client that speaks OpenAI's API works, from here.", _openai(model, address))]
    if model["attune"]["zip_bytes"] is not None:
        found.append(("peft", "The adapter on a machine of your own, in Python.", _peft(model, address)))
        found.append(("vllm", "The adapter behind a server for many users at once.", _vllm(model, address, rank)))
    return found


def _openai(model: Json, address: str) -> str:
    return (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{address}/v1", api_key=os.environ["ATTUNE_API_KEY"])\n'
        "answer = client.chat.completions.create(\n"
        f"    model={model['id']!r},\n"
        '    messages=[{"role": "user", "content": "…"}],\n'
        ")\nprint(answer.choices[0].message.content)"
    )


def _fetch(model: Json, address: str) -> str:
    return (
        "curl -L -o adapter.zip \\\n"
        '  -H "Authorization: Bearer $ATTUNE_API_KEY" \\\n'
        f"  '{address}/v1/attune/models/{quote(model['id'], safe=':')}/download'\n"
        "unzip adapter.zip -d adapter"
    )


def _peft(model: Json, address: str) -> str:
    base = model["attune"]["base_model"]
    return "\n".join(f"# {line}" for line in _fetch(model, address).splitlines()) + (
        "\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({base!r})\n"
        'model = PeftModel.from_pretrained(base, "adapter")\n'
        'tokenizer = AutoTokenizer.from_pretrained("adapter")'
    )


def _vllm(model: Json, address: str, rank: int | None) -> str:
    enough = next((one for one in VLLM_RANKS if one >= (rank or 0)), VLLM_RANKS[-1])
    return (
        _fetch(model, address) + f"\nvllm serve '{model['attune']['base_model']}' --enable-lora \\\n"
        f"  --lora-modules '{model['id']}=adapter' --max-lora-rank {enough}"
    )
