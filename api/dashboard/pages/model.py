"""One model: where it comes from, what was proven of it, how code uses it; to try, to download, to delete."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import Request
from nicegui import ui

from api.dashboard.bases import short_bytes
from api.dashboard.blocks import button, card, copyable, facts, link, notice, root, tag, text
from api.dashboard.dialogs import confirm
from api.dashboard.frame import frame
from api.dashboard.pages.models import name_of
from api.dashboard.rest import Json, Refused, in_path
from api.dashboard.usage import usages
from api.dashboard.visit import Visit, visit_of

CHECKS = {
    "loads": "The published bytes load where they are served",
    "every_tensor_mapped": "Every tensor found its place",
    "changes_logits": "It answers otherwise than its base",
    "validation_loss": "The loss measured there is the trainer's",
    "end_token": "It ends its answers",
    "template_hash": "Its template is the one it was trained with",
}


@ui.page("/models/{model:path}", response_timeout=30)
async def model_page(request: Request, model: str) -> None:
    visit = visit_of(request)
    try:
        shown = await visit.rest.get(f"/v1/models/{in_path(model)}")
        job, files = await _origin(visit, shown)
    except Refused as refused:
        with frame(visit, "Model", active="Models"):
            notice(refused.message, "error")
            link("/models", "button plain", label="All models")
        return
    with frame(visit, name_of(shown["id"]), active="Models", wide=True) as head:
        with head:
            _actions(visit, shown)
        with tag("div", "wrapped"):
            copyable(shown["id"], "Model id")
        with card("Where it comes from"):
            _lineage(shown, job, files)
        with tag("div", "columns"):
            if shown["attune"]["proof"] is not None:
                _proof(shown["attune"]["proof"])
            if shown["attune"]["files"] is not None:
                _files(shown)
        _use(shown, job, str(request.base_url).removesuffix("/").removesuffix(root()))


async def _origin(visit: Visit, model: Json) -> tuple[Json | None, dict[str, str]]:
    """The job, where it is one's own, and the names of its files; a file may have been deleted since."""
    if model["attune"]["job"] is None or not visit.may("read"):
        return None, {}
    job = await visit.rest.get(f"/v1/fine_tuning/jobs/{in_path(model['attune']['job'])}")
    names: dict[str, str] = {}
    for part in ("training_file", "validation_file"):
        if job[part] is not None:
            try:
                names[part] = (await visit.rest.get(f"/v1/files/{in_path(job[part])}"))["filename"]
            except Refused as refused:
                if refused.status != 404:
                    raise
                names[part] = f"{job[part]} (deleted since)"
    return job, names


def _actions(visit: Visit, model: Json) -> None:
    ours = model["attune"]
    if visit.may("inference"):
        link(f"/compare?models={in_path(model['id'])}", "button primary", label="Try it")
    if ours["zip_bytes"] is not None and visit.may("read"):
        size = short_bytes(ours["zip_bytes"])
        download = link(f"/download/models/{in_path(model['id'])}", "button plain", label=f"Download ({size})")
        download.props["download"] = True
    if ours["kind"] != "base" and not ours["shared"] and visit.may("write"):

        async def delete() -> None:
            await visit.rest.delete(f"/v1/models/{in_path(model['id'])}")
            ui.navigate.to("/models")

        words = "Requests for it are refused from then on, and its adapter is removed. The job and its curves stay."
        button("Delete", lambda: confirm("Delete this model?", words, "Delete the model", delete), kind="danger")


def _lineage(model: Json, job: Json | None, files: dict[str, str]) -> None:
    ours = model["attune"]
    with tag("ol", "lineage"):
        if job is not None:
            with _step("Data"):
                text("strong", files["training_file"], "break")
                if "validation_file" in files:
                    text("span", f"validated with {files['validation_file']}", "quiet small break")
                if job["trained_tokens"] is not None:
                    text("span", f"{job['trained_tokens']:,} tokens trained", "quiet small")
        with _step("Base"):
            text("strong", ours["base_model"], "break")
            if ours["quantization"]:
                text("span", f"held as {ours['quantization']} while training", "quiet small")
        if job is not None and job["attune"]["resolved"] is not None:
            with _step("Settings"):
                _settings(job["attune"]["resolved"])
                text("span", f"seed {job['seed']}", "quiet small number")
        with _step("Model"):
            made = datetime.fromtimestamp(model["created"], UTC)
            text("strong", f"{made:%d %B %Y}" + ("" if ours["step"] is None else f", step {ours['step']}"))
            loss = (ours["proof"] or {}).get("validation_loss_server")
            if loss is not None:
                text("span", f"validation loss {loss:.4f} nats per token", "quiet small number")
            report = None if job is None else job["attune"]["report"]
            if report is not None and report["validation_perplexity"] is not None:
                text("span", f"validation perplexity {report['validation_perplexity']:.3f}", "quiet small number")
            if job is not None:
                link(f"/jobs/{job['id']}", "small", label="Its job, with curves and events")


def _settings(resolved: Json) -> None:
    lora = resolved["lora"]
    if lora is not None:
        text("strong", f"rank {lora['rank']}, scale {lora['scale']:g}x")
    words = f"{resolved['n_epochs']} epochs of batch {resolved['batch_size']}, rate {resolved['learning_rate']:g}"
    text("span", words, "quiet small number")


def _step(title: str) -> ui.element:
    with tag("li", "stack tight") as step:
        text("span", title, "quiet small")
    return step


def _proof(proof: Json) -> None:
    with card("Proof", note="made before it was published"), tag("ul", "stack plain-list"):
        for check in proof["checks"]:
            with tag("li", "check-row"):
                ui.icon("check_circle" if check["passed"] else "error").props('aria-hidden="true"').classes(
                    "passed" if check["passed"] else "missed"
                )
                with tag("div", "stack tight"):
                    text("span", CHECKS.get(str(check["name"]), str(check["name"])))
                    text("span", check["detail"], "quiet small break")


def _files(model: Json) -> None:
    ours = model["attune"]
    with card("Files", note="PEFT format, in one zip"):
        facts([(file["path"], short_bytes(file["bytes"])) for file in ours["files"]])
        if ours["adapter_sha256"]:
            with tag("details", "fold"):
                text("summary", "Hash of the adapter")
                with tag("div", "wrapped"):
                    copyable(ours["adapter_sha256"], "sha256 of adapter_model.safetensors")


def _use(model: Json, job: Json | None, address: str) -> None:
    lora = (job["attune"]["resolved"] or {}).get("lora") if job is not None else None
    rank = None if lora is None else int(lora["rank"])
    with card("Use it", classes="code"), tag("div", "stack wide-gap"):
        for name, words, code in usages(model, address, rank):
            with tag("details", "fold") as fold:
                if name == "openai":
                    fold.props["open"] = True
                text("summary", f"With {name}")
                with tag("div", "stack"):
                    text("p", words, "quiet small")
                    copyable(code, f"Use with {name}")
