"""``kbuild config-file``: an example of kbuild.toml."""

import typer

from kbuild.cli.boundary import begin
from kbuild.cli.options import command_app, takes
from kbuild.settings import ConfigFileSettings, example_file

app = command_app()


@app.command()
@takes(ConfigFileSettings)
def config_file(ctx: typer.Context) -> None:
    """Print an example kbuild.toml with every setting."""
    _, screen = begin(ctx, ConfigFileSettings)
    text = example_file()
    screen.result({"text": text}, text.rstrip("\n").split("\n"))
