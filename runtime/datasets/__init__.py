"""Public data sets by name: what they are, under which licence, and how to get them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from servesim.errors import UnknownNameError

_CATALOGUE = Path(__file__).parent / "catalogue.toml"


@dataclass(frozen=True, slots=True)
class DataSet:
    """A public file of requests.

    Attributes:
        title: what it is, in a line.
        workload: the kind of workload that reads it.
        licence: its name and what it asks for.
        page: where its publisher describes it.
        url: where the file is.
        sha256: of the file, where the publisher says it; else empty.
    """

    name: str
    title: str
    workload: str
    licence: str
    page: str
    url: str
    sha256: str = ""

    @property
    def file(self) -> str:
        """The file's name, as published."""
        return PurePosixPath(urlparse(self.url).path).name


@cache
def data_sets() -> tuple[DataSet, ...]:
    """All that are known, by name."""
    tables = tomllib.loads(_CATALOGUE.read_text(encoding="utf-8"))
    return tuple(DataSet(name, **table) for name, table in sorted(tables.items()))


def data_set(name: str) -> DataSet:
    """The one called ``name``; case, ``-``, ``_`` and spaces do not matter.

    Raises:
        UnknownNameError: no such.
    """
    for one in data_sets():
        if _plain(one.name) == _plain(name):
            return one
    raise UnknownNameError("data set", name, [one.name for one in data_sets()])


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
