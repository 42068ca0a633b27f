"""``servesim dataset``: public data sets of requests, listed and fetched."""

from __future__ import annotations

import argparse
from pathlib import Path

from servesim.errors import InputError
from servesim.runtime.datasets import data_set, data_sets

HELP = "list public data sets of requests, or get one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``list`` and ``get``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show what there is", allow_abbrev=False)
    listing.set_defaults(action_run=_list)
    get = actions.add_parser("get", help="download one, or copy it", allow_abbrev=False)
    get.add_argument("name", metavar="NAME", help="of the data set")
    get.add_argument("--from", dest="source", metavar="URL|PATH", help="instead of its publisher")
    get.add_argument(
        "--out", type=Path, default=Path("datasets"), metavar="DIR", help="default: datasets"
    )
    get.add_argument(
        "--accept-licence", action="store_true", help="you have read the licence and agree"
    )
    get.set_defaults(action_run=_get)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return int(args.action_run(args))


def _list(_args: argparse.Namespace) -> int:
    from servesim.cli.render import columns, make_console

    table = columns("name", "workload", "licence", "what", text=4)
    for one in data_sets():
        table.add_row(one.name, one.workload, one.licence.split("; ")[0], one.title)
    make_console().print(table)
    return 0


def _get(args: argparse.Namespace) -> int:
    from servesim.cli.progress import byte_bar
    from servesim.cli.render import grid, indented, make_console
    from servesim.runtime.datasets.fetch import fetch

    wanted = data_set(args.name)
    console = make_console()
    console.print(wanted.title)
    indented(console, grid([("licence", wanted.licence), ("page", wanted.page)]))
    if not args.accept_licence:
        raise InputError(f"{wanted.name} has a licence: read it, then add --accept-licence")
    with byte_bar(console) as progress:
        found = fetch(wanted, args.out, args.source, progress)
    status = "new" if found.new else "there already"
    checked = "kept for next time" if found.recorded else "as expected"
    rows = [
        ("file", f"{found.path} ({status})"),
        ("sha256", f"{found.sha256} ({checked})"),
        ("workload", f'kind = "{wanted.workload}" with this path'),
    ]
    indented(console, grid(rows))
    return 0
