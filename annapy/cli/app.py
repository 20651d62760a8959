"""The group of commands."""
from __future__ import annotations

import click

__all__ = ["run"]


@click.group()
@click.version_option(package_name="annapy")
def cli() -> None:
    """A state store for functions."""


def run() -> None:
    """Run the command line and exit."""
    cli()
