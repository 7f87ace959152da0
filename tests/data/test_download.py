"""Downloads against a local server: whole, resumed, broken off, wrong, missing; archives that mean harm."""

import contextlib
import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cracks_jax.data import archives, download
from cracks_jax.data.archives import unpack
from cracks_jax.data.download import REGISTRY, RemoteFile, Source, fetch
from cracks_jax.errors import CracksError, UsageError


@dataclass
class Server:
    """What it serves by path, how many bytes it sends before it dies (per request), and what it was asked."""

    files: dict = field(default_factory=dict)
    dies_after: list = field(default_factory=list)
    ranges: bool = True
    asked: list = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch):
    state = Server()
    # Retries wait between attempts; the tests do not.
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range") if state.ranges else None
            state.asked.append(self.headers.get("Range"))
            content = state.files.get(self.path)
            if content is None:
                return self.send_error(404)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if start >= len(content) and wanted:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            rest = content[start:]
            self.wfile.write(rest[: state.dies_after.pop(0)] if state.dies_after else rest)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def remote(server, **options):
    server.files.setdefault("/a.zip", CONTENT)
    return RemoteFile(f"{server.url}/a.zip", "a.zip", **options)


# --- one file ---


def test_a_file_arrives_whole_with_progress(server, tmp_path):
    calls = []
    path = fetch(remote(server, size=len(CONTENT), sha256=DIGEST), tmp_path, lambda *call: calls.append(call))
    assert path.read_bytes() == CONTENT and [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    assert calls[-1] == (len(CONTENT), len(CONTENT)) and len(calls) > 2


def test_a_part_is_continued_not_fetched_again(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    calls = []
    path = fetch(remote(server, sha256=DIGEST), tmp_path, lambda *call: calls.append(call))
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"] and calls[-1] == (len(CONTENT), len(CONTENT))


def test_a_server_without_ranges_starts_the_part_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / "a.zip.part").write_bytes(b"old bytes")
    assert fetch(remote(server, sha256=DIGEST), tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_taken(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert fetch(remote(server, sha256=DIGEST), tmp_path).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_starts_anew(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    assert fetch(remote(server, sha256=DIGEST), tmp_path).read_bytes() == CONTENT


def test_a_server_that_dies_midway_is_asked_for_the_rest(server, tmp_path):
    server.dies_after = [300_000, 200_000]
    assert fetch(remote(server, sha256=DIGEST), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]


def test_a_server_that_keeps_dying_leaves_the_part_for_the_next_run(server, tmp_path):
    server.dies_after = [100_000, 100_000, 100_000]
    with pytest.raises(CracksError, match=r"broke off.*300000 bytes are kept in .*\.part; run the same"):
        fetch(remote(server, sha256=DIGEST), tmp_path)
    assert fetch(remote(server, sha256=DIGEST), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=300000-"


def test_a_wrong_digest_is_refused_and_removed(server, tmp_path):
    with pytest.raises(CracksError, match=f"SHA-256 is {DIGEST}, expected {'0' * 64}"):
        fetch(remote(server, sha256="0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_size_is_refused_and_removed(server, tmp_path):
    with pytest.raises(CracksError, match=f"got {len(CONTENT)} bytes, expected 2000000"):
        fetch(remote(server, size=2_000_000), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_has_moved_is_said_at_once(server, tmp_path):
    with pytest.raises(CracksError, match=r"b\.zip: the server answered 404 .*home page"):
        fetch(RemoteFile(f"{server.url}/b.zip", "b.zip"), tmp_path)
    assert len(server.asked) == 1


def test_no_server_at_all_is_an_error_of_one_line(tmp_path, server):
    url = server.url
    dead = RemoteFile(url.rsplit(":", 1)[0] + ":9/a.zip", "a.zip")
    with pytest.raises(CracksError, match="the download broke off .*run the same command again"):
        fetch(dead, tmp_path)


def test_only_web_addresses_are_opened(tmp_path):
    with pytest.raises(UsageError, match="expected an http or https address"):
        fetch(RemoteFile("file:///etc/hostname", "a.zip"), tmp_path)


def test_a_part_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "a.zip.part").mkdir()
    with pytest.raises(CracksError, match=r"a\.zip\.part: cannot be written"):
        fetch(remote(server), tmp_path)


# --- archives ---


def make_zip(members, path=None):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    if path is not None:
        path.write_bytes(buffer.getvalue())
    return path or buffer.getvalue()


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as opened:
        for info, content in members:
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_one_common_top_folder_is_left_out(tmp_path):
    inner = {"image/1.jpg": b"one", "groundTruth/1.mat": b"two"}
    members = {f"repo-abc/{name}": content for name, content in inner.items()}
    archive = make_zip(members | {"__MACOSX/x": b"junk"}, tmp_path / "a.zip")
    unpack([archive], tmp_path / "out")
    assert tree(tmp_path / "out") == inner
    flat = make_tar(tmp_path / "b.tar.gz", [(tarfile.TarInfo(k), v) for k, v in inner.items()])
    unpack([flat], tmp_path / "flat")
    assert tree(tmp_path / "flat") == inner


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_paths_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    archive = make_zip({"good/1.jpg": b"x", name: b"evil"}, tmp_path / "a.zip")
    with pytest.raises(CracksError, match="leads out of the folder; not unpacked"):
        unpack([archive], tmp_path / "out")
    packed = make_tar(tmp_path / "a.tar", [(tarfile.TarInfo(name), b"evil")])
    with pytest.raises(CracksError, match="leads out of the folder; not unpacked"):
        unpack([packed], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.zip"]


def test_links_and_devices_are_refused(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo("innocent")
        info.type, info.linkname = kind, "/etc/passwd"
        with pytest.raises(CracksError, match="'innocent' is a link or device"):
            unpack([make_tar(tmp_path / "a.tar", [(info, b"")])], tmp_path / "out")
    link = zipfile.ZipInfo("innocent")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(CracksError, match="'innocent' is a link or device"):
        unpack([tmp_path / "a.zip"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_unpacks_to_too_much_is_refused_before_and_while_writing(tmp_path, monkeypatch):
    archive = make_zip({"zeros": b"\0" * 1_000_000}, tmp_path / "a.zip")
    assert archive.stat().st_size < 2000
    with pytest.raises(CracksError, match="unpacks to 1000000 bytes in 1 files or more; at most 5000 bytes"):
        unpack([archive], tmp_path / "out", max_bytes=5000)

    class Endless(io.RawIOBase):
        def read(self, size=-1):
            return b"\0" * 1000

    lying = [archives._Member("zeros", 1, False, True, Endless)]
    monkeypatch.setattr(archives, "_zip_members", lambda opened: lying)
    with pytest.raises(CracksError, match="unpacks to more than the 5000 bytes"):
        unpack([archive], tmp_path / "out", max_bytes=5000)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_damaged_and_empty_archives_are_named(tmp_path):
    whole = make_zip({"a/1.jpg": bytes(range(256)) * 20, "a/2.jpg": b"y"})
    damaged = {"cut.zip": whole[:-30], "text.zip": b"not an archive", "flip.zip": flipped(whole)}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CracksError, match=f"{name}: not a whole zip or tar archive"):
            unpack([tmp_path / name], tmp_path / "out")
    with pytest.raises(CracksError, match="empty"):
        unpack([make_zip({}, tmp_path / "empty.zip")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def flipped(data):
    changed = bytearray(data)
    changed[100] ^= 0xFF
    return bytes(changed)


# --- the whole story ---


@pytest.fixture
def registry(server):
    server.files["/set.zip"] = make_zip({"repo/images/1.jpg": b"pixels", "repo/masks/1.png": b"mask"})
    file = RemoteFile(f"{server.url}/set.zip", "set.zip")
    return {
        "set": Source("A set", "https://example.org", "For research only.", "Someone 2020", (file,)),
        "manual": Source("Another", "https://example.org", "None.", "Someone", by_hand="Ask the authors"),
    }


def test_the_licence_comes_before_the_first_byte(server, registry, tmp_path):
    shown = []

    def decline(source):
        shown.append(source.notice())
        return False

    with pytest.raises(UsageError, match="licence of 'set' was not accepted; nothing was downloaded"):
        download.download("set", tmp_path / "data", accept=decline, registry=registry)
    assert "For research only." in shown[0] and "https://example.org" in shown[0]
    assert server.asked == [] and not (tmp_path / "data").exists()


def test_an_accepted_data_set_lies_under_its_name_and_nothing_else_stays(server, registry, tmp_path):
    folder = download.download("set", tmp_path / "data", accept=lambda source: True, registry=registry)
    assert tree(folder) == {"images/1.jpg": b"pixels", "masks/1.png": b"mask"}
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["set"]
    with pytest.raises(CracksError, match="is there already"):
        download.download("set", tmp_path / "data", accept=lambda source: True, registry=registry)


def test_unknown_names_and_sets_without_an_address_say_what_to_do(registry, tmp_path):
    with pytest.raises(UsageError, match="data set 'cfd' is not in the list; known: manual, set"):
        download.download("cfd", tmp_path, accept=lambda source: True, registry=registry)
    with pytest.raises(UsageError, match="no direct address. Ask the authors"):
        download.download("manual", tmp_path, accept=lambda source: True, registry=registry)


def test_every_registered_set_has_a_home_a_licence_and_a_way_to_get_it():
    for source in REGISTRY.values():
        assert source.home.startswith("https://") and source.licence and source.citation
        assert bool(source.files) != bool(source.by_hand)
        assert all(file.url.startswith("https://") for file in source.files)


def test_the_tool_lists_asks_and_reports_with_exit_codes(registry, tmp_path, monkeypatch, capsys):
    import importlib.util
    from pathlib import Path

    place = Path(__file__).parents[2] / "tools" / "download.py"
    spec = importlib.util.spec_from_file_location("download_tool", place)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main(["--list"]) == 0
    assert "deepcrack: DeepCrack" in capsys.readouterr().out
    monkeypatch.setattr(
        tool, "download", lambda *args, **kwargs: download.download(*args, **kwargs, registry=registry)
    )
    arguments = ["set", "--out", str(tmp_path / "data")]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert tool.main(arguments) == 2
    assert "not accepted" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert tool.main(arguments) == 0
    assert tool.main([*arguments, "--accept-licence"]) == 1
    assert "is there already" in capsys.readouterr().err
    with contextlib.suppress(SystemExit):
        tool.main([])
    assert "name a data set" in capsys.readouterr().err
