"""Scenarios from TOML files, tables and flags: later layers win, unknown keys are errors."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from servesim.errors import InputError, UnknownNameError
from servesim.fields import checked, checked_table, replaced
from servesim.registry import Registry
from servesim.scenario.sections import Instance, Plugin

T = TypeVar("T")

#: What may stand at the top of a scenario file.
TOP_LEVEL = (
    "name", "model", "hardware", "engine", "workload", "router", "power", "cost", "slo", "output",
    "offload", "expert_offload", "placement", "instance", "network", "disaggregation", "failures",
    "autoscaling", "frontend", "client",
)  # fmt: skip
#: Sections that an ``[[instance]]`` may override.
PER_INSTANCE = ("model", "hardware", "engine", "offload", "expert_offload", "placement")


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings.

    Attributes:
        tables: section name to table, as TOML gives them.
        base: the folder that relative paths are relative to.
        origin: how error messages call the source; empty for flags.
    """

    tables: Mapping[str, Any]
    base: Path = Path()
    origin: str = ""

    def __post_init__(self) -> None:
        with blaming(self.origin):
            for key in self.tables:
                if key not in TOP_LEVEL:
                    raise UnknownNameError("section", key, TOP_LEVEL)

    def table(self, section: str) -> dict[str, Any]:
        """A section's table, empty where absent."""
        return _as_table(self.tables.get(section, {}), f"[{section}]")

    def instance_tables(self) -> list[dict[str, Any]]:
        """The ``[[instance]]`` tables."""
        found = self.tables.get("instance", [])
        with blaming(self.origin):
            if not isinstance(found, list):
                raise InputError("instances are written [[instance]], with two brackets")
            return [_as_table(table, "[[instance]]") for table in found]


def read_layer(path: Path) -> Layer:
    """The settings of a scenario file.

    Raises:
        InputError: it cannot be read, is not TOML, or has an unknown section.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"scenario {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    return Layer({"name": path.stem, **tables}, path.parent, str(path))


@contextmanager
def blaming(origin: str) -> Iterator[None]:
    """Input errors raised inside start with ``origin``."""
    try:
        yield
    except InputError as error:
        raise (InputError(f"{origin}: {error}") if origin else error) from error


def name_of(layers: Sequence[Layer], default: str) -> str:
    """The last layer's name that is given; it must do as a folder's name."""
    name = default
    for layer in layers:
        with blaming(layer.origin):
            name = checked(layer.tables.get("name", name), str, "name", layer.base)
            if not name or "/" in name or name.startswith("."):
                raise InputError(f"name must be usable as a folder's name, not {name!r}")
    return name


def section(spec: T, name: str, layers: Sequence[Layer]) -> T:
    """``spec`` with the keys that the layers give in section ``name``."""
    values: dict[str, Any] = {}
    origin = ""
    for layer in layers:
        with blaming(layer.origin):
            given = checked_table(type(spec), layer.table(name), f"[{name}]", layer.base)
        if given:
            values, origin = {**values, **given}, layer.origin
    with blaming(origin):
        return replaced(spec, values, f"[{name}]")


def instances_of(layers: Sequence[Layer]) -> tuple[Instance, ...]:
    """Every ``[[instance]]``, or the one that the plain sections describe.

    An instance takes the files' plain sections, then its own tables, then the flags.
    """
    own = [(layer, table) for layer in layers for table in layer.instance_tables()]
    if not own:
        return (_instance(layers, layers[-1], {}),)
    found = tuple(_instance(layers, layer, table) for layer, table in own)
    names = [instance.name for instance in found]
    if len(set(names)) < len(names):
        found = tuple(replace(one, name=f"{one.name}-{i}") for i, one in enumerate(found))
    return found


def plugin(name: str, registry: Registry[Any], default: str, layers: Sequence[Layer]) -> Plugin:
    """The plugin that section ``name`` chooses; another ``kind`` drops earlier layers' options.

    Raises:
        UnknownNameError: no such plugin, or no such option of it.
        InputError: an option has the wrong type.
    """
    found = Plugin(default)
    for layer in layers:
        with blaming(layer.origin):
            table = layer.table(name)
            kind = checked(table.pop("kind", found.kind), str, f"[{name}] kind", layer.base)
            kept = found.options if kind == found.kind else {}
            given = checked_table(registry.get(kind), table, f"[{name}]", layer.base)
            found = Plugin(kind, {**kept, **given})
    return found


def _instance(layers: Sequence[Layer], layer: Layer, table: Mapping[str, Any]) -> Instance:
    """One instance: of ``layer``, whose ``[[instance]]`` table is ``table``."""
    own = {key: value for key, value in table.items() if key in PER_INSTANCE}
    after = layers.index(layer) + 1
    nested = Layer(own, layer.base, layer.origin)
    order = [*layers[:after], nested, *layers[after:]]
    plain = {k: v for k, v in table.items() if k not in PER_INSTANCE}
    blank = Instance()
    sections = {name: section(getattr(blank, name), name, order) for name in PER_INSTANCE}
    with blaming(layer.origin or layers[0].origin):
        values = checked_table(Instance, plain, "[[instance]]", layer.base)
        made = replaced(blank, {**sections, **values}, "[[instance]]")
        made.require_complete()
    return made


def _as_table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be a table, not {value!r}")
    return dict(value)
