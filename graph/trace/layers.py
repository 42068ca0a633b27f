"""Layers that repeat are recorded once: equal modules called alike do the same work."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from servesim.graph.ir import Repeat
from servesim.graph.trace.recorder import Recorder

_SCALARS = (bool, int, float, str, type(None))
#: Attributes that number a module and change nothing else.
_POSITION = re.compile(r"(^|_)(layer_?(idx|id|index|number|nb|num)|idx|index)$|^block_idx$|^i$")


def find_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The decoder layers by path.

    They are the elements of the outermost module lists with as many elements as the config has
    layers; the longest lists, if it does not say.
    """
    lists: dict[str, torch.nn.ModuleList] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, torch.nn.ModuleList) and len(module) and not inside:
            lists[path] = module
    count = _layers_in_config(model)
    if count not in {len(found) for found in lists.values()}:
        count = max((len(found) for found in lists.values()), default=0)
    return {
        f"{path}.{name}": child
        for path, found in lists.items()
        if len(found) == count
        for name, child in found.named_children()
    }


def _layers_in_config(model: torch.nn.Module) -> int:
    config: Any = model.config
    try:
        return int(config.get_text_config(decoder=True).num_hidden_layers)
    except Exception:  # configs of several parts count layers a part
        return 0


def layer_index(path: str) -> int:
    """The number of the layer at ``path``."""
    return int(path.rsplit(".", 1)[-1])


class LayerFolder:
    """Runs each distinct layer once and skips its equals, handing on tensors of the same shapes.

    Signatures are taken before anything runs, on a pristine model.
    """

    def __init__(self, model: torch.nn.Module, recorder: Recorder, cache: Any) -> None:
        self._recorder = recorder
        self._cache = cache
        self._seen: dict[Any, tuple[int, Any]] = {}
        self._originals: list[torch.nn.Module] = []
        config = getattr(model, "config", None)
        layers = find_layers(model)
        shared = _shared_parameters(layers)
        static = {
            path: (_signature(layer, config, layer_index(path)), shared[path])
            for path, layer in layers.items()
        }
        for path, layer in layers.items():
            self._fold(path, layer, static[path])

    def restore(self) -> None:
        """Give the layers their own ``forward`` back."""
        for layer in self._originals:
            del layer.forward

    def _fold(self, path: str, layer: torch.nn.Module, static: Any) -> None:
        original, index, place = layer.forward, layer_index(path), path.rsplit(".", 1)[0]

        def forward(*args: Any, **kwargs: Any) -> Any:
            key = (place, static, _call_signature(args, kwargs, self._recorder, index))
            if key not in self._seen:
                out = original(*args, **kwargs)
                self._seen[key] = (index, out)
                return out
            like, out = self._seen[key]
            self._recorder.graph.repeats.append(Repeat(index, like))
            self._copy_cache(like, index)
            with self._recorder.paused():
                fresh = tree_map(_empty_like, out)
            self._recorder.emit("repeat", (args, kwargs), fresh, {"like": like})
            return fresh

        layer.forward = forward
        self._originals.append(layer)

    def _copy_cache(self, like: int, index: int) -> None:
        layers = getattr(self._cache, "layers", None)
        if isinstance(layers, list) and len(layers) > max(like, index):
            layers[index] = copy.copy(layers[like])


def _empty_like(value: Any) -> Any:
    return torch.empty_like(value) if isinstance(value, torch.Tensor) else value


def _call_signature(args: Any, kwargs: Any, recorder: Recorder, index: int) -> Any:
    """Shapes of the tensors a layer is called with, the other arguments, and what masks say."""
    named = {k: v for k, v in kwargs.items() if not _POSITION.search(k)}
    leaves, spec = tree_flatten((args, named))
    return str(spec), tuple(_leaf(leaf, recorder, index) for leaf in leaves)


def _leaf(leaf: Any, recorder: Recorder, index: int) -> Any:
    if type(leaf) is int and leaf == index:
        return "its own index"
    if isinstance(leaf, torch.Tensor):
        node = recorder.graph.nodes[recorder.node_of(leaf)]
        mask = tuple(sorted(node.attrs.items())) if node.target == "mask" else ()
        return tuple(leaf.shape), str(leaf.dtype), mask
    return leaf if isinstance(leaf, _SCALARS) else type(leaf).__name__


def _signature(layer: torch.nn.Module, config: Any, index: int) -> Any:
    modules = tuple(
        (name, type(module).__name__, tuple(_scalars(module)), tuple(_tensors(module)))
        for name, module in layer.named_modules()
    )
    return modules, tuple(_per_layer(config, index))


def _shared_parameters(layers: dict[str, torch.nn.Module]) -> dict[str, str]:
    """Whether a layer shares parameters with others: ``first`` to have them, ``later``, or not.

    Weights are counted where they appear first, so the first layer stands for itself.
    """
    holders: dict[int, list[str]] = {}
    for path, layer in layers.items():
        for parameter in layer.parameters():
            holders.setdefault(id(parameter), []).append(path)
    kinds = dict.fromkeys(layers, "")
    for paths in holders.values():
        if len(paths) > 1:
            kinds |= {path: kinds[path] or "later" for path in paths[1:]}
            kinds[paths[0]] = "first"
    return kinds


def _scalars(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        plain = isinstance(value, _SCALARS) or (
            isinstance(value, (tuple, list)) and all(isinstance(v, _SCALARS) for v in value)
        )
        if plain and not name.startswith("_") and not _POSITION.search(name):
            yield name, str(value)


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    for name, tensor in (
        *module.named_parameters(recurse=False),
        *module.named_buffers(recurse=False),
    ):
        yield name, (tuple(tensor.shape), str(tensor.dtype))


def _per_layer(config: Any, index: int) -> Iterator[tuple[str, str]]:
    """Entries of the config's lists that hold one value a layer."""
    for name, value in sorted(getattr(config, "__dict__", {}).items()):
        count = getattr(config, "num_hidden_layers", None)
        if isinstance(value, (list, tuple)) and len(value) == count and index < len(value):
            yield name, str(value[index])
