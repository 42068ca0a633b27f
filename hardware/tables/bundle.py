"""Where a bundle of layer latencies lies, and what it says it was measured of and on."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError
from servesim.hardware.tables.csvfile import read_csv
from servesim.hardware.tables.older_layers import existing

#: Folders of number formats, between a model's and those of its degrees.
_FORMATS = ("bf16", "fp16", "fp8")

#: Words of ids that tell neither the architecture nor its size.
_VARIANTS = {"meta", "hf", "base", "chat", "instruct", "it"}


@dataclass(frozen=True)
class Said:
    """What a bundle says of itself; empty where it does not.

    Attributes:
        model: Hugging Face id.
        certain: the id stands in ``meta.yaml``, or in the path below the folder that was named;
            folders above that may be called anything.
        device: name of the device.
    """

    model: str
    certain: bool
    device: str


def find_bundle(
    folder: Path,
    model: str | None = None,
    dtype: str | None = None,
    known_models: Collection[str] = (),
) -> Path:
    """The folder that holds ``tp<N>`` folders (Vidur: ``mlp.csv``), at or below ``folder``.

    Args:
        model: Hugging Face id of the model wanted; a bundle that names another is refused.
        dtype: number format wanted, when the model has several.
        known_models: ids that are a model's wherever in a path they stand.

    Raises:
        InputError: there is none, or more than one, or only one of another model.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = _bundles(folder)
    if not found:
        raise InputError(
            f"{folder}: no layer profile (tp<N>/dense.csv, tp<N>/layers.csv or mlp.csv) in it"
        )
    for wanted in (model, dtype):
        named = [path for path in found if wanted and f"/{wanted}/" in f"/{path.as_posix()}/"]
        if len(found) > 1 and wanted:
            if not named:
                there = _names(folder, found)
                raise InputError(f"{folder}: no profile of {wanted} (there: {there})")
            found = named
    if len(found) > 1:
        raise InputError(f"{folder}: several profiles, name one of: {_names(folder, found)}")
    said = said_by(found[0], folder)
    certain = said.certain or said.model in known_models
    if model and certain and not _same_model(said.model, model):
        raise InputError(
            f"{found[0]}: layer latencies of {said.model}, not of {model} "
            f'(to take them all the same: profile_model = "{said.model}")'
        )
    return found[0]


def has_layer_profile(folder: Path) -> bool:
    """Whether there is a bundle at or below ``folder``."""
    return folder.is_dir() and bool(_bundles(folder))


def said_by(bundle: Path, folder: Path) -> Said:
    """What the bundle found below ``folder`` says, in its ``meta.yaml`` or its path.

    A path is ``<hardware>/<organisation>/<model>[/<dtype>]``.
    """
    meta = bundle / "meta.yaml"
    if meta.is_file():
        text = meta.read_text(encoding="utf-8-sig", errors="replace")
        if model := _line(text, "model"):
            return Said(model, True, _line(text, "gpu") or _line(text, "hardware"))
    whole = bundle.resolve()
    if whole.name in _FORMATS:
        whole = whole.parent
    base = folder.resolve()
    below = whole.relative_to(base).parts if whole.is_relative_to(base) else ()
    *_, device, organisation, model = ("", "", "", *whole.parts[1:])
    return Said(f"{organisation}/{model}", len(below) > 1, device)


def _line(text: str, key: str) -> str:
    """The value of a key at the top of a YAML file that is text."""
    found = re.search(rf"^{key}:[ \t]*(.+?)[ \t]*$", text, re.MULTILINE)
    return found[1].strip("'\"") if found else ""


def _same_model(one: str, other: str) -> bool:
    """Whether two ids name one architecture, whoever uploaded it, tuned to chat or not."""
    names = (re.split(r"[-_]", name.rpartition("/")[2].lower()) for name in (one, other))
    first, second = ([word for word in words if word not in _VARIANTS] for words in names)
    return first == second


def said_sizes(bundle: Path) -> dict[str, int]:
    """The hidden size and the query heads of the measured model, where Vidur's columns say."""
    sizes: dict[str, int] = {}
    for path in (existing(bundle, "mlp.csv"), *sorted(bundle.glob("tp*/attention.csv*"))[:1]):
        if path.is_file():
            row = read_csv(path, dict)[0]
            for column, size in (("n_embd", "hidden"), ("n_head", "heads"), ("n_q_head", "heads")):
                if row.get(column, "").isdecimal():
                    sizes.setdefault(size, int(row[column]))
    return sizes


def _bundles(folder: Path) -> list[Path]:
    if folder.name.startswith("tp") and _is_measured(folder):
        return [folder.parent]
    found = sorted({path.parent.parent for path in folder.rglob("tp*/*") if _marks(path)})
    return found + sorted({path.parent for path in folder.rglob("mlp.csv*")})


def _marks(path: Path) -> bool:
    return path.name in {"dense.csv", "layers.csv", "layers.csv.gz"}


def _is_measured(folder: Path) -> bool:
    return any(_marks(path) for path in folder.iterdir())


def _names(folder: Path, found: list[Path]) -> str:
    return ", ".join(path.relative_to(folder).as_posix() for path in found)
