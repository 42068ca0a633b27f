"""Finding the command, and turning errors into one line and exit code 2."""

from __future__ import annotations

import argparse
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from servesim import __version__
from servesim.cli import commands
from servesim.errors import ServesimError, UnknownNameError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the nearest known word."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and exiting."""
        raise ServesimError(message)

    def reject_unknown(self, words: Sequence[str]) -> None:
        """Raise for the first argument that nothing took."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        word = words[0].split("=")[0]
        if word.startswith("-"):
            near = difflib.get_close_matches(word, flags, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ServesimError(f"unknown flag {word}{hint} (see {self.prog} --help)")
        raise ServesimError(f"unexpected argument {word!r} (see {self.prog} --help)")


def _command_names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(commands.__path__))


def _parser_for(name: str) -> Parser:
    module = importlib.import_module(f"{commands.__name__}.{name}")
    parser = Parser(prog=f"servesim {name}", description=module.HELP, allow_abbrev=False)
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def _overview() -> str:
    lines = ["usage: servesim COMMAND [options]   (servesim COMMAND --help)", "", "commands:"]
    for name in _command_names():
        module = importlib.import_module(f"{commands.__name__}.{name}")
        lines.append(f"  {name:<10} {module.HELP}")
    return "\n".join(lines)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        sys.stdout.write(_overview() + "\n")
        return 0
    if argv[0] == "--version":
        sys.stdout.write(f"servesim {__version__}\n")
        return 0
    name = argv[0]
    if name not in _command_names():
        raise UnknownNameError("command", name, _command_names())
    parser = _parser_for(name)
    args, rest = parser.parse_known_args(argv[1:])
    if rest:
        parser.reject_unknown(rest)
    return int(args.run(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, or after one line on standard error 2 for an error the user can mend and
        130 for an interruption.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # where module:attribute may lead to
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except ServesimError as error:
        sys.stderr.write(f"servesim: {error}\n")
        return 2
    except MemoryError as error:
        sys.stderr.write(f"servesim: not enough memory here: {error or 'it asks for too much'}\n")
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"servesim: {where}{error.strerror or error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("servesim: interrupted\n")
        return 130
