"""What tests of the built site share: the site, served as on the web, and a browser. Skipped where there is none."""

import functools
import hashlib
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

from kdrepro import paths
from kdrepro.publishing import book, carried, standing

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def chromium() -> str | None:
    """A Chromium or Chrome on this machine."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or (MAC if os.path.exists(MAC) else None)


@pytest.fixture(scope="session")
def these() -> list[standing.Standing]:
    """Where the claims stand, by the records that are published."""
    return standing.standings(paths.RESULTS)


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The site of this source: the one in _build if it is that, otherwise a new one."""
    names = carried.source_files(paths.ROOT)
    there, sums = paths.ROOT / "_build" / "html", paths.ROOT / "_build" / "html" / "files" / "SHA256SUMS"
    digest = hashlib.sha256(carried.archive(paths.ROOT, names, f"kdrepro-{carried.__version__}")).hexdigest()
    if sums.exists() and digest in sums.read_text() and (there / "index.html").exists():
        return there
    copy = tmp_path_factory.mktemp("site")
    for name in names:
        if name.startswith(("book/", "_")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(paths.ROOT / name, copy / name)
    return book._build(copy).parent


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="session")
def address(site):
    """The site, served as on the web."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    executable = chromium()
    if executable is None:
        pytest.skip("There is no Chromium or Chrome here: install one (apt-get install chromium), and this is tested.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()
