"""Plugins found by name: one file each, a frozen dataclass whose fields are its options."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from .errors import InputError, UnknownNameError
from .fields import checked, field_types

T = TypeVar("T")


def require_known(kind: str, options: Iterable[str], cls: Any) -> None:
    """Refuse an option that is no field of the dataclass ``cls``.

    Raises:
        UnknownNameError: such an option; the message calls it a ``kind``.
    """
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for name in options:
        if name not in known:
            raise UnknownNameError(kind, name, known)


class Named(Protocol):
    """What has a name to be found by."""

    @property
    def name(self) -> str:
        """The name."""


N = TypeVar("N", bound=Named)


def called(kind: str, name: str, known: Iterable[N]) -> N:
    """The one of ``known`` whose name is ``name``.

    Raises:
        UnknownNameError: there is none; the message calls them a ``kind``.
    """
    by_name = {one.name: one for one in known}
    if name not in by_name:
        raise UnknownNameError(kind, name, by_name)
    return by_name[name]


class Registry(Generic[T]):
    """The plugins of one kind (router, scheduler, workload, ...).

    Modules of ``package`` are imported on the first look-up, so that adding a plugin means adding
    a file. A name of the form ``module:Class`` loads a plugin from outside the tree.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._classes: dict[str, type[T]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make the class known under ``name``.

        Raises:
            ValueError: the name is taken by another class.
        """

        def add(cls: type[T]) -> type[T]:
            if self._classes.setdefault(name, cls) is not cls:
                raise ValueError(f"two {self.kind} plugins are called {name!r}")
            return cls

        return add

    def names(self) -> tuple[str, ...]:
        """Every known name, sorted."""
        self._load()
        return tuple(sorted(self._classes))

    def get(self, name: str) -> type[T]:
        """The class registered as ``name``, or loaded from ``module:Class``.

        Raises:
            UnknownNameError: no such plugin.
            InputError: the dotted path does not lead to a class.
        """
        self._load()
        if name in self._classes:
            return self._classes[name]
        if ":" in name:
            return self._from_outside(name)
        raise UnknownNameError(self.kind, name, self._classes)

    def build(self, name: str, options: Mapping[str, Any] | None = None) -> T:
        """An instance of plugin ``name`` with ``options`` as its fields.

        Raises:
            UnknownNameError: no such plugin or no such option.
            InputError: an option is missing, or its value is of another type or refused.
        """
        cls = self.get(name)
        given = dict(options or {})
        if dataclasses.is_dataclass(cls):
            require_known(f"option of {self.kind} {name!r}:", given, cls)
            missing = [key for key in _required(cls) if key not in given]
            if missing:
                raise InputError(f"{self.kind} {name!r} needs {', '.join(missing)}")
            given = self._checked(name, cls, given)
        try:
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.kind} {name!r}: {error}") from error

    def _checked(self, name: str, cls: type[T], given: Mapping[str, Any]) -> dict[str, Any]:
        """``given``, each value as the field that it is for wants it; None passes."""
        hints = field_types(cls)
        return {
            key: None
            if value is None
            else checked(value, hints[key], f"{self.kind} {name!r}: {key}", Path())
            for key, value in given.items()
        }

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")

    def _from_outside(self, path: str) -> type[T]:
        module_name, _, class_name = path.partition(":")
        try:
            loaded = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise InputError(f"{self.kind} {path!r} cannot be loaded: {error}") from error
        if not isinstance(loaded, type):
            raise InputError(f"{self.kind} {path!r} is not a class")
        return loaded


def _required(cls: type) -> list[str]:
    """The fields of a dataclass that have no default."""
    none = dataclasses.MISSING
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.init and field.default is none and field.default_factory is none
    ]
