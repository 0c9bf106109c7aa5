"""Downloads: whole, broken off, resumed, wrong; from a server of the test's own."""

import errno
import hashlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kdrepro.data.downloads import download
from kdrepro.errors import InputError

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Sends CONTENT; `breaks_after` so many bytes of an answer, and resumes if it `can_resume`."""

    breaks_after: int | None = None
    can_resume = True


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range") if self.server.can_resume else None
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.server.asked.append(first)
        if first >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        self.wfile.write(CONTENT[first:][: self.server.breaks_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Server(("127.0.0.1", 0), Handler)
    found.asked = []
    found.url = f"http://127.0.0.1:{found.server_port}/file"
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def test_a_file_is_fetched_once(server, tmp_path):
    seen = []
    path = tmp_path / "deep" / "file"
    assert download(server.url, path, md5=MD5, what="it", progress=lambda *row: seen.append(row)) == path
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    download(server.url, path, md5=MD5, what="it")
    assert server.asked == [0]
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_what_broke_off_is_resumed(server, tmp_path):
    server.breaks_after = 700_000
    with pytest.raises(InputError, match=r"it could not be downloaded .*try again \(it goes on where it broke off\)"):
        download(server.url, tmp_path / "file", md5=MD5, what="it")
    assert not (tmp_path / "file").exists()
    server.breaks_after = None
    download(server.url, tmp_path / "file", md5=MD5, what="it")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [0, 700_000]


def test_a_part_that_is_whole_is_only_checked(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "file", md5=MD5, what="it")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_two_at_once_fetch_it_once(server, tmp_path):
    """The second waits for the first, and finds what it put there; neither writes into the other's part."""
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    begun, go_on = threading.Event(), threading.Event()

    def holding(done, total):
        begun.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(download, server.url, tmp_path / "file", md5=MD5, what="it", progress=holding)
        assert begun.wait(60)
        second = pool.submit(download, server.url, tmp_path / "file", md5=MD5, what="it")
        time.sleep(0.2)  # until the second has come to wait; without the lock it would have asked by now
        go_on.set()
        assert first.result().read_bytes() == second.result().read_bytes() == CONTENT
    assert server.asked == [1000]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_killed_download_holds_up_nobody(server, tmp_path):
    """The lock goes with the process."""
    killed = (
        "import os, signal, sys; from kdrepro.data.downloads import download\n"
        "download(sys.argv[1], sys.argv[2], md5=sys.argv[3], what='it', "
        "progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    server.breaks_after = 700_000
    done = subprocess.run([sys.executable, "-c", killed, server.url, tmp_path / "file", MD5], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["file.part"]
    server.breaks_after = None
    assert download(server.url, tmp_path / "file", md5=MD5, what="it").read_bytes() == CONTENT


def test_a_full_disk_keeps_what_has_come(server, tmp_path, monkeypatch):
    def full(done, total):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"No space left on device.*goes on where it broke off"):
        download(server.url, tmp_path / "file", md5=MD5, what="it", progress=full)
    assert [p.name for p in tmp_path.iterdir()] == ["file.part"]
    assert download(server.url, tmp_path / "file", md5=MD5, what="it").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_starts_anew(server, tmp_path):
    server.can_resume = False
    (tmp_path / "file.part").write_bytes(b"an old beginning")
    download(server.url, tmp_path / "file", md5=MD5, what="it")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_file_never_gets_into_its_place(server, tmp_path):
    with pytest.raises(InputError, match=r"is not it .*: it was deleted"):
        download(server.url, tmp_path / "file", md5="0" * 32, what="it")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_copy_is_replaced(server, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT[:-1])
    download(server.url, tmp_path / "file", md5=MD5, what="it")
    assert (tmp_path / "file").read_bytes() == CONTENT
