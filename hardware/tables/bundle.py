"""Where a bundle of layer latencies lies, and what it says it was measured of and on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError
from servesim.hardware.tables.csvfile import read_csv
from servesim.hardware.tables.older_layers import existing
from servesim.hardware.tables.sizes import (
    HEADS,
    HIDDEN,
    INNER,
    KV_HEADS,
    VOCABULARY,
    format_of,
    nothing_known,
    same_format,
)

#: Words of ids that tell neither the architecture nor its size: of tuning, ...
_VARIANTS = {"meta", "hf", "base", "chat", "instruct", "it"}
#: ... and of the weights' format, which is compared by itself.
_QUANTISED = {"awq", "gptq", "dynamic", "quantized", "w4a16", "w8a8", "w8a16"}
#: Columns of Vidur's files by the size of the model that they say.
_COLUMNS = {
    "n_embd": HIDDEN,
    "n_head": HEADS,
    "n_q_head": HEADS,
    "n_kv_head": KV_HEADS,
    "n_expanded_embd": INNER,
    "vocab_size": VOCABULARY,
}


@dataclass(frozen=True)
class Said:
    """What a bundle says of itself; empty where it does not.

    Attributes:
        model: Hugging Face id, or two names of folders that may be called anything.
        certain: the id stands in ``meta.yaml``.
        device: name of the device.
        format: number format of the weights.
    """

    model: str
    certain: bool
    device: str
    format: str

    @property
    def all_the_same(self) -> str:
        """How to have the bundle for another model, or one in another format."""
        key, option = f'profile_model = "{self.model}"', f"--profile-model {self.model}"
        return f"(to take them all the same: {key}, or {option})"


def find_bundle(
    folder: Path,
    model: str | None = None,
    dtype: str | None = None,
    alike: Callable[[str], bool | None] = nothing_known,
) -> Path:
    """The folder that holds ``tp<N>`` folders (Vidur: ``mlp.csv``), at or below ``folder``.

    Args:
        model: Hugging Face id of the model wanted; a bundle that names another is refused.
        dtype: number format wanted, when the model has several.
        alike: whether the model of an id has all sizes of the one wanted; None where the id is
            no known model's.

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
    if len(found) > 1 and model:
        found = _of_model(found, folder, model, alike)
    if len(found) > 1 and dtype:
        formats = {path: said_by(path).format for path in found}
        named = [path for path in found if formats[path] == format_of(dtype)]
        named = named or [path for path in found if same_format(formats[path], format_of(dtype))]
        if not named:
            raise InputError(f"{folder}: no profile of {dtype} (there: {_names(folder, found)})")
        found = named
    if len(found) > 1:
        raise InputError(f"{folder}: several profiles, name one of: {_names(folder, found)}")
    said = said_by(found[0])
    known = alike(said.model)
    certain = said.certain or known is not None
    if model and certain and not (known or _same_model(said.model, model)):
        raise InputError(
            f"{found[0]}: layer latencies of {said.model}, not of {model} {said.all_the_same}"
        )
    return found[0]


def _of_model(
    found: list[Path], folder: Path, model: str, alike: Callable[[str], bool | None]
) -> list[Path]:
    """Those of exactly the model wanted, else those that its name or its sizes allow.

    Raises:
        InputError: there are none.
    """
    exact = [path for path in found if f"/{model}/" in f"/{path.as_posix()}/"]
    named = [path for path in found if _same_model(said_by(path).model, model)]
    sized = [path for path in found if alike(said_by(path).model)]
    if not (chosen := exact or named or sized):
        raise InputError(f"{folder}: no profile of {model} (there: {_names(folder, found)})")
    return chosen


def has_layer_profile(folder: Path) -> bool:
    """Whether there is a bundle at or below ``folder``."""
    return folder.is_dir() and bool(_bundles(folder))


def said_by(bundle: Path) -> Said:
    """What a bundle says, in its ``meta.yaml`` or its path.

    A path is ``<hardware>/<organisation>/<model>[/<dtype>]``.
    """
    whole = bundle.resolve()
    if number_format := format_of(whole.name):
        whole = whole.parent
    *_, device, organisation, model = ("", "", "", *whole.parts[1:])
    meta = bundle / "meta.yaml"
    if meta.is_file():
        text = meta.read_text(encoding="utf-8-sig", errors="replace")
        number_format = format_of(_line(text, "variant")) or number_format
        if named := _line(text, "model"):
            gpu = _line(text, "gpu") or _line(text, "hardware")
            return Said(named, True, gpu, number_format)
    return Said(f"{organisation}/{model}", False, device, number_format)


def _line(text: str, key: str) -> str:
    """The value of a key at the top of a YAML file that is text."""
    found = re.search(rf"^{key}:[ \t]*(.+?)[ \t]*$", text, re.MULTILINE)
    return found[1].strip("'\"") if found else ""


def _same_model(one: str, other: str) -> bool:
    """Whether two ids name one architecture, whoever uploaded it, tuned or quantised."""
    names = (re.split(r"[-_]", name.rpartition("/")[2].lower()) for name in (one, other))
    aside = _VARIANTS | _QUANTISED
    first, second = (
        [word for word in words if word not in aside and not format_of(word)] for words in names
    )
    return first == second


def said_sizes(bundle: Path) -> dict[str, int]:
    """Sizes of the measured model by their names in ``config.json``, where Vidur's columns say."""
    sizes: dict[str, int] = {}
    for path in (existing(bundle, "mlp.csv"), *sorted(bundle.glob("tp*/attention.csv*"))[:1]):
        if path.is_file():
            row = read_csv(path, dict)[0]
            for column, size in _COLUMNS.items():
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
