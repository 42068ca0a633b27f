"""Data sets by name: licence first, whole files only, the same file every time."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from servesim.cli.main import main
from servesim.errors import InputError, UnknownNameError
from servesim.runtime.datasets import DataSet, data_set, data_sets
from servesim.runtime.datasets.fetch import fetch
from servesim.runtime.workloads import WORKLOADS

ROW = b"2023-11-16 18:15:46.6805900,374,44\n"
CONTENT = b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + 50 * ROW
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content`` under any path but /absent; may end answers early."""

    content = CONTENT
    etag: str | None = '"one"'
    stop_after: int | None = None
    ranges: tuple[str | None, ...] = ()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges += (asked,)
        if self.path == "/absent":
            self.send_error(404)
            return
        start = 0
        if asked and self.headers.get("If-Range") == self.server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        body = self.server.content[start:]
        if not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        self.wfile.write(body[: self.server.stop_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def at(server: Server, sha256: str = "") -> DataSet:
    url = f"http://127.0.0.1:{server.server_port}/traces/code.csv"
    return DataSet("code", "a trace", "azure", "CC-BY-4.0", "https://example.org", url, sha256)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_data_set_has_a_reader_and_a_licence() -> None:
    assert len({one.file for one in data_sets()}) == len(data_sets()) > 8
    for one in data_sets():
        assert one.workload in WORKLOADS.names()
        assert one.licence and one.url.startswith("https://") and one.page.startswith("https://")
        assert one.sha256 == "" or len(bytes.fromhex(one.sha256)) == 32
    assert data_set("ShareGPT_V3").name == "sharegpt-v3"
    with pytest.raises(UnknownNameError, match="did you mean 'burstgpt-1'"):
        data_set("burstgp-1")


def test_the_first_download_fixes_the_checksum(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    got = fetch(at(server), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert (got.path.read_bytes(), got.sha256, got.new, got.recorded) == (CONTENT, SHA, True, True)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert names(tmp_path) == {"code.csv", "code.csv.sha256"}
    assert (tmp_path / "code.csv.sha256").read_text() == f"{SHA}  code.csv\n"
    again = fetch(at(server), tmp_path)
    assert (again.new, again.recorded, len(server.ranges)) == (False, False, 1)
    # The publisher changes the file: what is fetched anew is not what was.
    got.path.unlink()
    server.content = CONTENT + b"x"
    with pytest.raises(InputError, match=r"not [0-9a-f]{64} of .*code\.csv\.sha256; nothing"):
        fetch(at(server), tmp_path)
    assert names(tmp_path) == {"code.csv.sha256"}


def test_a_published_checksum_counts(server: Server, tmp_path: Path) -> None:
    assert not fetch(at(server, SHA), tmp_path).recorded
    with pytest.raises(InputError, match="remove the file to get it anew"):
        fetch(at(server, "0" * 64), tmp_path)
    with pytest.raises(InputError, match=r"of https://example\.org; nothing was kept"):
        fetch(at(server, "0" * 64), tmp_path / "other")


def test_a_download_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.stop_after = 1000
    with pytest.raises(InputError, match=r"ended after 1,000 of .* run again to go on"):
        fetch(at(server), tmp_path)
    assert names(tmp_path) == {"code.csv.part", "code.csv.part.tag"}
    server.stop_after = None
    assert fetch(at(server), tmp_path).path.read_bytes() == CONTENT
    assert server.ranges == (None, "bytes=1000-")
    assert names(tmp_path) == {"code.csv", "code.csv.sha256"}


@pytest.mark.parametrize("etag", ['"two"', None])
def test_a_download_of_another_file_starts_again(
    server: Server, tmp_path: Path, etag: str | None
) -> None:
    (tmp_path / "code.csv.part").write_bytes(b"of an older version")
    (tmp_path / "code.csv.part.tag").write_text('"one"')
    server.etag = etag
    assert fetch(at(server, SHA), tmp_path).path.read_bytes() == CONTENT


def test_a_part_that_is_whole_is_no_trap(server: Server, tmp_path: Path) -> None:
    (tmp_path / "code.csv.part").write_bytes(CONTENT)
    (tmp_path / "code.csv.part.tag").write_text('"one"')
    assert fetch(at(server, SHA), tmp_path).sha256 == SHA


def test_without_a_network(server: Server, tmp_path: Path) -> None:
    port = server.server_port
    with pytest.raises(InputError, match="the server answers 404"):
        fetch(at(server), tmp_path, f"http://127.0.0.1:{port}/absent")
    server.server_close()
    with pytest.raises(InputError, match=r"cannot be reached \(.*give a copy with --from"):
        fetch(at(server), tmp_path)
    with pytest.raises(InputError, match="neither a path nor a URL of http, https or file"):
        fetch(at(server), tmp_path, "ftp://example.org/x")
    with pytest.raises(InputError, match="no such file"):
        fetch(at(server), tmp_path, str(tmp_path / "absent.csv"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("as_url", [False, True])
def test_local_copies_and_mirrors_may_be_gzipped(
    tmp_path: Path, packed: bool, as_url: bool, server: Server
) -> None:
    copy = tmp_path / "a copy.bin"
    copy.write_bytes(gzip.compress(CONTENT) if packed else CONTENT)
    source = copy.as_uri() if as_url else str(copy)
    got = fetch(at(server, SHA), tmp_path / "out", source)
    assert got.path.read_bytes() == CONTENT
    assert copy.exists()
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises(InputError, match="cannot be unpacked"):
        fetch(at(server, SHA), tmp_path / "other", str(broken))


def test_the_licence_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes(CONTENT)
    asked = ["dataset", "get", "azure-2023-code", "--from", str(copy), "--out", str(tmp_path / "d")]
    assert main(asked) == 2
    shown = capsys.readouterr()
    assert "CC-BY-4.0" in shown.out
    assert "azure-2023-code has a licence: read it, then add --accept-licence" in shown.err
    assert not (tmp_path / "d").exists()
    assert main([*asked, "--accept-licence"]) == 0
    assert 'kind = "azure"' in capsys.readouterr().out
    path = tmp_path / "d" / "AzureLLMInferenceTrace_code.csv"
    assert WORKLOADS.build("azure", {"path": path}).source()
    assert path.read_bytes() == CONTENT
    assert main(["dataset", "list"]) == 0
    shown_list = capsys.readouterr().out
    assert all(one.name in shown_list for one in data_sets())


def test_the_page_names_every_data_set() -> None:
    page = Path(__file__).parents[2] / "docs" / "datasets.md"
    rows = [
        line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    for one in data_sets():
        (row,) = [row for row in rows if f"`{one.name}`" in row.split("|")[1]]
        assert f"`{one.workload}`" in row
        assert one.licence.split("; ")[0] in row
