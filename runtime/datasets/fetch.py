"""Getting a data set's file: streamed aside, checked, put in its place at once.

Beside the file stays ``<file>.sha256`` (as ``sha256sum -c`` reads it): the published checksum, or
that of the first download, which every later one must have. While a download runs, ``<file>.part``
and ``<file>.part.tag`` (the server's ETag) keep what came, so that it can go on where it ended.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlparse
from urllib.request import Request, urlopen

from servesim.errors import InputError
from servesim.runtime.datasets import DataSet

#: Called with the bytes that are there and, where known, all that there will be.
Progress = Callable[[int, int | None], None]

_CHUNK = 1 << 20
_TIMEOUT_S = 30.0
_PARTIAL_CONTENT, _NOTHING_LEFT = 206, 416
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A data set's file, checked.

    Attributes:
        new: downloaded or copied now; it was there already if not.
        recorded: there was no checksum to compare with, so that this one is kept from now on.
    """

    path: Path
    sha256: str
    new: bool
    recorded: bool


def fetch(
    what: DataSet, folder: Path, source: str | None = None, progress: Progress | None = None
) -> Fetched:
    """The file of ``what`` in ``folder``, got from ``source`` unless it is there.

    Args:
        source: a URL or a local path in place of the published URL; gzipped or not.

    Raises:
        InputError: it cannot be reached or read, ended early, or has another checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / what.file
    known = what.sha256 or _kept(path)
    new = not path.exists()
    held = _arrived(source or what.url, path, progress) if new else path
    found = _sha256(held)
    if known and found != known:
        where = what.page if what.sha256 else _sum_file(path)
        mend = "nothing was kept" if new else "remove the file to get it anew"
        if new:
            _discard(path)
        raise InputError(f"{path}: its sha256 {found} is not {known} of {where}; {mend}")
    if new:
        held.replace(path)
        _discard(path)
    _sum_file(path).write_text(f"{found}  {path.name}\n", encoding="utf-8")
    return Fetched(path, found, new, not known)


def _arrived(source: str, path: Path, progress: Progress | None) -> Path:
    """Where the whole file from ``source`` is, aside of ``path``."""
    part = _part(path)
    _obtain(source, part, progress)
    _unpack(part, path)
    return part


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _sum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _kept(path: Path) -> str:
    """The checksum kept beside ``path``; empty if there is none."""
    try:
        return _sum_file(path).read_text(encoding="utf-8").split()[0]
    except (FileNotFoundError, IndexError):
        return ""


def _discard(path: Path) -> None:
    """Remove what a download leaves beside ``path``."""
    for left in (_part(path), _tag_file(_part(path))):
        left.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _obtain(source: str, part: Path, progress: Progress | None) -> None:
    url = urlparse(source)
    if url.scheme in {"http", "https"}:
        _download(source, part, progress)
    elif url.scheme == "file":
        _copy(Path(unquote(url.path)), part)
    elif "://" in source:
        raise InputError(f"{source}: neither a path nor a URL of http, https or file")
    else:
        _copy(Path(source).expanduser(), part)


def _copy(source: Path, part: Path) -> None:
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    shutil.copyfile(source, part)


def _download(url: str, part: Path, progress: Progress | None) -> None:
    """All of ``url``, going on after what is in ``part`` if the server still has the same file."""
    done = part.stat().st_size if part.exists() and _tag_file(part).exists() else 0
    with _reached(url):
        try:
            _stream(url, part, done, progress)
        except HTTPError as error:
            if not (done and error.code == _NOTHING_LEFT):
                raise
            _stream(url, part, 0, progress)


def _stream(url: str, part: Path, done: int, progress: Progress | None) -> None:
    """``url`` from byte ``done`` on, or all of it if the server says so."""
    tag = _tag_file(part)
    headers = {"User-Agent": "servesim"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": tag.read_text(encoding="utf-8")}
    with urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S) as answer:
        if answer.status != _PARTIAL_CONTENT:
            done = 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        etag = answer.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            tag.write_text(etag, encoding="utf-8")
        else:
            tag.unlink(missing_ok=True)
        with part.open("ab" if done else "wb") as file:
            done = _pour(answer, file, done, total, progress)
    if total is not None and done < total:
        raise InputError(f"{url}: ended after {done:,} of {total:,} bytes; run again to go on")


def _pour(
    answer: Any, file: IO[bytes], done: int, total: int | None, progress: Progress | None
) -> int:
    while chunk := answer.read(_CHUNK):
        file.write(chunk)
        done += len(chunk)
        if progress:
            progress(done, total)
    return done


@contextmanager
def _reached(url: str) -> Iterator[None]:
    """Network errors as one line that says what to do without a network."""
    try:
        yield
    except HTTPError as error:
        raise InputError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{url}: cannot be reached ({reason}); run again, or give a copy with --from PATH"
        ) from error


def _unpack(part: Path, path: Path) -> None:
    """Unpack ``part`` in place if it is gzipped but the published file is not."""
    with part.open("rb") as file:
        if file.read(2) != _GZIP or path.suffix == ".gz":
            return
    unpacked = part.with_name(f"{part.name}.unpacked")
    try:
        with gzip.open(part, "rb") as packed, unpacked.open("wb") as file:
            shutil.copyfileobj(packed, file, _CHUNK)
    except (OSError, EOFError, zlib.error) as error:
        unpacked.unlink(missing_ok=True)
        raise InputError(f"{part}: cannot be unpacked: {error}") from error
    unpacked.replace(part)
