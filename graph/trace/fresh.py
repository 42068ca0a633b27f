"""Forgetting modelling modules that were imported before their kernels could be wrapped."""

from __future__ import annotations

import re
import sys

_MODELLING = re.compile(r"transformers\.models\.\w+\.(modeling|modular)_\w+")


def forget_modelling_modules() -> None:
    """Drop imported modelling modules of ``transformers``, so that the next use imports them anew.

    A modelling module decorates its kernels while it is imported. Objects made from it before stay
    as they are; packages also keep what they looked up in it, which goes, too.
    """
    names = {name for name in sys.modules if _MODELLING.fullmatch(name)}
    for name in sorted(names):
        del sys.modules[name]
    packages = [m for n, m in sorted(sys.modules.items()) if n.split(".")[0] == "transformers"]
    for package in packages:
        for attribute, value in list(vars(package).items()):
            home = getattr(value, "__module__", None)
            if home in names or getattr(value, "__name__", None) in names:
                delattr(package, attribute)
