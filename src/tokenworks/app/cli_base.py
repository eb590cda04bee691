"""What the commands share: options before the command, settings and connections when they are needed."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from tokenworks.app.bootstrap import Works, make_works
from tokenworks.app.database import check_schema, connect, database
from tokenworks.app.output import print_json
from tokenworks.app.settings import Effective, Settings, load_settings
from tokenworks.kernel import Invalid

Command = TypeVar("Command", bound=Callable[..., Any])

json_option: Callable[[Command], Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON."
)
subscriber_option: Callable[[Command], Command] = click.option(
    "--subscriber", required=True, help="Subscriber id, or phone number (+86…)."
)


class Context:
    """The options before the command; settings and connections are made when they are needed."""

    def __init__(self, data_dir: str | None) -> None:
        self._data_dir = data_dir

    def effective(self, **options: Any) -> Effective:
        return load_settings({"data_dir": self._data_dir} | options)

    def settings(self, **options: Any) -> Settings:
        return self.effective(**options).settings

    @contextlib.contextmanager
    def works(self) -> Iterator[Works]:
        settings = self.settings()
        if not settings.database_url and not settings.data_dir.exists():
            raise Invalid(f"there is nothing in {settings.data_dir} yet: run `tokenworks init` first")
        with database(settings) as url, contextlib.closing(connect(url)) as connection:
            check_schema(connection)
            yield make_works(settings, connection)


pass_context = click.make_pass_decorator(Context)


def said(value: Any, text: str, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        click.echo(text)
