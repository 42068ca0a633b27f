"""One entry of a calibration: a form, its coefficients, and what they were fitted on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.cost import Source

#: Keys of a calibration entry that are not coefficients.
NOTES = frozenset({"source", "held_out", "range", "origins", "borrowed"})
#: Key of an entry: the form of its family whose coefficients it has where it gives none itself.
LIKE = "like"
#: A size this factor outside the fitted range still counts as inside: the forms are smooth.
_MARGIN = 1.1


@dataclass(frozen=True, slots=True)
class Entry:
    """A form with its coefficients, and the sizes it was fitted on.

    Attributes:
        form: knows its coefficients, and answers for seconds.
        ranges: least and largest of each size (``forms/extent``) that it was fitted on.
        source: of what it says inside them.
        cores: those of a lender of another kind of device, 0 for the device's own. What a tile or
            a row takes of a core's time carries over only to cores of the same kind: a matrix unit
            of a TPU is not an SM.
    """

    form: Any
    ranges: Mapping[str, tuple[float, float]]
    source: Source = Source.CALIBRATED
    cores: int = 0

    def source_for(self, sizes: Mapping[str, float]) -> Source:
        """``source``, or EXTRAPOLATED when a size lies beyond the fitted range.

        Smaller work than was measured still lies between that and no work at all. What is lent
        was measured on its lender, and no further.
        """
        for name, (low, high) in self.ranges.items():
            if sizes.get(name, low) > high * _MARGIN:
                return Source.EXTRAPOLATED
        return self.source


def completed(tables: Mapping[str, Mapping[str, Any]], key: str, where: str) -> Mapping[str, Any]:
    """``tables[key]`` with the coefficients that it leaves to the form it is ``like``.

    Args:
        tables: those of a family, by key.
        where: the entry, for messages.

    Raises:
        InputError: it is like no form of the family, or like one that is itself like another.
    """
    table = tables[key]
    if LIKE not in table:
        return table
    name = table[LIKE]
    if not isinstance(name, str) or name not in tables:
        raise UnknownNameError(f"form that {where} is like:", str(name), sorted(tables))
    if LIKE in tables[name]:
        raise InputError(f"{where} is like {name}, which is like {tables[name][LIKE]}: name that")
    lent = {k: v for k, v in tables[name].items() if k not in NOTES}
    return lent | {k: v for k, v in table.items() if k != LIKE}


def read_entry(form: type, table: Mapping[str, Any], where: str) -> Entry:
    """The entry of ``table``, with the coefficients of ``form``; ``where`` is for messages.

    Raises:
        InputError: a coefficient is missing, unknown or of the wrong kind.
    """
    names = {f.name: f for f in dataclasses.fields(form)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in NOTES:
            continue
        if key not in names:
            raise UnknownNameError(f"coefficient of {where}:", key, names)
        values[key] = _coefficient(value, names[key], where)
    for name, f in names.items():
        if name not in values and f.default is dataclasses.MISSING:
            raise InputError(f"{where}: coefficient {name} is missing")
    ranges = {k: (float(v[0]), float(v[1])) for k, v in table.get("range", {}).items()}
    try:
        return Entry(form(**values), ranges)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error.kind} of {where}:", error.name, error.known) from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _coefficient(value: Any, field: dataclasses.Field[Any], where: str) -> Any:
    """``value`` as the form's ``field`` takes it: a number, a list of numbers, or a name."""
    if field.type == "float" and is_number(value):
        return float(value)
    if field.type == "str" and isinstance(value, str):
        return value
    listed = field.type == "tuple[float, ...]" and isinstance(value, list)
    if listed and all(map(is_number, value)):
        return tuple(map(float, value))
    what = {"float": "a number", "str": "a name"}.get(str(field.type), "a list of numbers")
    raise InputError(f"{where}: {field.name} must be {what}, not {value!r}")


def is_number(value: Any) -> bool:
    """Whether a value of TOML is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
