"""`attune`: the command line. All but `up`, `backup`, `restore` and `doctor` is a client over HTTP, as any other
program could be."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import aliases, jobs, keys, migrate, models, projects
from cli.backup import backup, restore
from cli.connection import DEFAULT_URL, Service, connected, fail
from cli.doctor import doctor
from cli.settings import settings_here
from cli.train import train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Self-hosted fine-tuning: upload examples, train a LoRA adapter, chat with it, download it.",
)
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(projects.app, name="projects")
app.add_typer(aliases.app, name="aliases")
app.add_typer(migrate.app, name="migrate")
app.command()(train)
app.command()(models.download)
app.command()(backup)
app.command()(restore)
app.command()(doctor)


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@app.callback()
def service(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="ATTUNE_URL", help="Address of the service.")] = DEFAULT_URL,
    key_file: Annotated[
        Path | None,
        typer.Option(envvar="ATTUNE_API_KEY_FILE", help="File with the key. Default: the data folder's operator-key."),
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="ATTUNE_API_KEY", hidden=True)] = None,
    data_dir: Annotated[Path, typer.Option("--data", envvar="ATTUNE_DATA_DIR", hidden=True)] = Path("data"),
) -> None:
    context.obj = Service(url, api_key, key_file, data_dir)


@app.command()
def up(
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: ATTUNE_DATA_DIR, or data")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: ATTUNE_HOST, or 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: ATTUNE_PORT, or 8000")] = None,
    serve_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of the server. Default: ATTUNE_SERVE_PORT, or 8001")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="How many workers run here.")] = 1,
    serve: Annotated[bool, typer.Option(help="Whether a server of models runs here.")] = True,
    log_level: Annotated[LogLevel | None, typer.Option(help="Default: ATTUNE_LOG_LEVEL, or info")] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from cli.up import CannotStart, Parts, run  # here, since a client has no need of the service's parts

    settings = settings_here(data_dir=data, host=host, port=port, serve_port=serve_port, log_level=log_level)
    try:
        run(settings, Parts(workers, serve))
    except CannotStart as error:
        fail(str(error))


@app.command()
def dashboard(context: typer.Context) -> None:
    """Print a link that opens the dashboard signed in: good once, within the hour."""
    with connected(context) as client:
        link = client.post("/attune/sign_in_links", cast_to=dict[str, Any])
        address = str(client.base_url).removesuffix("/").removesuffix("/v1")
    typer.echo(f"{address}/dashboard/enter?link={link['token']}")


if __name__ == "__main__":
    app()
