"""`make demo`: from two files of examples to an adapter that answers, by itself, in minutes.

It makes a small base model, starts the service, and then does what a user's program would, with the `openai`
package: upload, train, compare base and tuned model on questions that no file held, download. Any step that does
not end as it should ends the demo with exit code 1.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import openai
from openai import DefaultHttpxClient, OpenAI
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli import demo_client
from cli.demo_client import Question
from cli.demo_service import DemoFailed, Service, answers_of_peft, make_base, place_for, running_service
from cli.follow import follow
from core.data.sample_data import messages

BASE = "attune-demo"
SEED = 7
TRAINING_ROWS = 800
VALIDATION_ROWS = 50
QUESTIONS = 60
SHOWN = 3  # questions printed in full
MOST_BASE = 0.10  # exact match that the base may reach
LEAST_TUNED = 0.90  # and that the tuned model must
LEAST_SAME = 0.95  # PEFT computes in another precision, which may turn an answer that was a toss-up
TRAINING_SEED, VALIDATION_SEED, QUESTION_SEED = 1, 2, 3  # of the generated messages
PICTURE_WIDTH = 110  # characters


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("demo-data"), help="the demo's own data folder")
    parser.add_argument("--seed", type=int, default=SEED, help="of the training")
    parser.add_argument("--picture", type=Path, help="write what is printed to this SVG file")
    options = parser.parse_args()
    picture: Path | None = options.picture
    console = Console(highlight=False)
    if picture is not None:
        # no terminal: the frames of a moving bar would all stand in the picture
        console = Console(highlight=False, record=True, width=PICTURE_WIDTH, force_terminal=False)
    try:
        run(console, options.data.absolute(), options.seed)
    except DemoFailed as failure:
        console.print(f"[bold red]The demo failed:[/bold red] {escape(str(failure))}", soft_wrap=True)
        return 1
    except openai.APIError as error:
        console.print(f"[bold red]The demo failed:[/bold red] the service answered: {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped; nothing of the demo is running any more.")
        return 130
    if picture is not None:
        draw(console, picture)
    return 0


def run(console: Console, data: Path, seed: int) -> None:
    """The whole story. Raises DemoFailed."""
    started = time.monotonic()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold a key
    base = data / "models" / BASE
    with chapter(console, 1, "A small base model, made here"):
        prepare_base(console, base)
    training, validation, questions = write_files(data / "files")
    with running_service(data) as service, connect(service) as client:
        with chapter(console, 2, "The service is up; a client uploads two files and trains"):
            console.print(f"{service.address}, log in {_short(service.log)}")
            model = train(console, client, training, validation, seed)
        with chapter(console, 3, "Base and tuned model answer questions that were in neither file"):
            answers = compare(console, client, model, questions)
        with chapter(console, 4, "The adapter is downloaded and loaded with plain PEFT"):
            adapter = place_for(data / "adapter")
            size = demo_client.download(client, model, adapter)
            console.print(f"{size / 1e6:.1f} MB, unpacked to {_short(adapter)}")
            check_with_peft(console, base, adapter, questions, answers)
    console.print(f"\n[bold green]Done[/bold green] in {time.monotonic() - started:.0f} s, and everything is stopped.")
    console.print(
        "Next: [bold]make up[/bold] runs the service for you, and prints its address (http://127.0.0.1:8000 unless "
        "you choose another) and where its key lies.\n"
        f"To go on with the model of this demo: [bold]{_attune()} up --data {_short(data)}[/bold]",
        soft_wrap=True,
    )


@contextmanager
def chapter(console: Console, number: int, title: str) -> Generator[None]:
    started = time.monotonic()
    console.print(f"\n[bold cyan]{number}[/bold cyan] [bold]{title}[/bold]")
    yield
    console.print(f"[dim]{time.monotonic() - started:.0f} s[/dim]")


def prepare_base(console: Console, folder: Path) -> None:
    """Make the base unless an earlier run has."""
    if folder.is_dir():
        console.print(f"It stands already: {_short(folder)}", soft_wrap=True)
        return
    console.print(
        "A Llama of 2 million parameters, trained for two minutes on made-up mail of a shop, which is answered\n"
        'in prose or in JSON with other keys ("item", "place"), and on copying lists of words. It never saw a\n'
        "ticket as they come below, nor the combinations of facts that it will be asked about."
    )
    columns = (TextColumn("pre-training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        make_base(folder, lambda done, total: progress.update(bar, completed=done, total=total))


def write_files(folder: Path) -> tuple[Path, Path, list[Question]]:
    """The two files of examples, and the questions that share no combination of facts with them."""
    place_for(folder)
    training, validation = folder / "training.jsonl", folder / "validation.jsonl"
    training.write_bytes(demo_client.jsonl(_questions(TRAINING_SEED, TRAINING_ROWS, unseen=False)))
    validation.write_bytes(demo_client.jsonl(_questions(VALIDATION_SEED, VALIDATION_ROWS, unseen=False)))
    return training, validation, _questions(QUESTION_SEED, QUESTIONS, unseen=True)


def _questions(seed: int, count: int, *, unseen: bool) -> list[Question]:
    return [Question(message.text, message.ticket) for message in islice(messages(seed, unseen=unseen), count)]


def connect(service: Service) -> OpenAI:
    """The official client; not through a proxy, since the service is on this machine."""
    http = DefaultHttpxClient(trust_env=False)
    return OpenAI(base_url=f"{service.address}/v1", api_key=service.key, http_client=http)


def train(console: Console, client: OpenAI, training: Path, validation: Path, seed: int) -> str:
    """The id of the fine-tuned model."""
    training_id, validation_id = (demo_client.upload(client, path) for path in (training, validation))
    console.print(
        f"{TRAINING_ROWS} examples: a customer's message, and the ticket that a person wrote for it. One line:"
    )
    console.print(training.open().readline().strip(), style="dim", markup=False)
    job = follow(client, demo_client.create_job(client, BASE, training_id, validation_id, seed).id, console)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise DemoFailed(f"the job {job.id} ended as {job.status}: {job.error.message if job.error else ''}")
    return job.fine_tuned_model


def compare(console: Console, client: OpenAI, model: str, questions: Sequence[Question]) -> list[str]:
    """Ask both, show a few answers and both scores. The tuned model's answers."""
    answers: dict[str, list[str]] = {}
    columns = (TextColumn("asking {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        for name in (BASE, model):
            bar = progress.add_task(name, total=len(questions))
            answers[name] = demo_client.ask(client, name, questions, lambda bar=bar: progress.advance(bar))
    table = Table(show_lines=True, expand=True)
    for heading in ("message", "base", "tuned"):
        table.add_column(heading, ratio=1, overflow="fold")
    for place in range(SHOWN):
        wanted = questions[place].ticket
        marked = (_marked(answers[name][place], wanted) for name in (BASE, model))
        table.add_row(escape(questions[place].message), *marked)
    base_score, tuned_score = (demo_client.exact(questions, answers[name]) for name in (BASE, model))
    console.print(table)
    scores = f"base [bold]{base_score:.0%}[/bold], tuned [bold]{tuned_score:.0%}[/bold]"
    console.print(f"Exact match on {len(questions)} questions: {scores}")
    if base_score > MOST_BASE:
        raise DemoFailed(f"the base is right in {base_score:.0%}: more than {MOST_BASE:.0%}, so tuning shows nothing")
    if tuned_score < LEAST_TUNED:
        raise DemoFailed(f"the tuned model is right in {tuned_score:.0%}, which is below {LEAST_TUNED:.0%}")
    return answers[model]


def _marked(answer: str, wanted: str) -> str:
    return f"[green]✓[/green] {escape(answer)}" if answer == wanted else f"[red]✗[/red] {escape(answer)}"


def check_with_peft(
    console: Console, base: Path, adapter: Path, questions: Sequence[Question], answers: Sequence[str]
) -> None:
    """Raises DemoFailed where PEFT's answers are not the service's."""
    with console.status("PeftModel.from_pretrained(base, adapter) answers the same questions"):
        others = answers_of_peft(base, adapter, [one.message for one in questions])
    differing = [place for place, pair in enumerate(zip(answers, others, strict=True)) if pair[0] != pair[1]]
    same = len(questions) - len(differing)
    console.print(f"PEFT gives the service's answer to [bold]{same} of {len(questions)}[/bold] questions.")
    if same < LEAST_SAME * len(questions):
        place = differing[0]
        raise DemoFailed(
            f"to {questions[place].message!r} the service answered {answers[place]!r}, and PEFT {others[place]!r}"
        )


def _attune() -> str:
    """How the command is called from here."""
    path = Path(sys.executable).with_name("attune")
    return _short(path) if path.is_relative_to(Path.cwd()) else "attune"


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def draw(console: Console, path: Path) -> None:
    """What was printed, as an SVG that fetches nothing (rich's own asks a CDN for its font)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    svg = console.export_svg(title="make demo", unique_id="demo")
    path.write_text(re.sub(r"@font-face\s*{[^}]*}", "", svg).replace("Fira Code", "ui-monospace, Menlo, Consolas"))


if __name__ == "__main__":
    sys.exit(main())
