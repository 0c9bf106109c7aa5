"""The page that is read aloud."""

import pytest

from kdrepro import paths
from kdrepro.errors import InputError
from kdrepro.publishing import aloud

PAGE = f"""<html><body><nav><p>Menu</p></nav><article><h1>One page<a class="headerlink" href="#x">#</a></h1>
<p>Three − one is two; naïve</p>{aloud.PLACE}<p>Tested: <a href="x.html">there</a>.</p></article></body></html>"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / aloud.PAGE).parent.mkdir(parents=True)
    (tmp_path / aloud.PAGE).write_text(PAGE, encoding="utf-8")
    return tmp_path


def test_what_is_said_is_the_text_without_menus_and_references():
    assert aloud.paragraphs(PAGE) == ["One page", "Three minus one is two; naive"]
    assert aloud.paragraphs("<html></html>") == []


def test_a_built_page_gets_a_recording_and_a_player(site):
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("espeakng_loader")
    assert aloud.add_to(site)
    html = (site / aloud.PAGE).read_text()
    assert html.count("<audio") == 1
    assert f'src="../{aloud.RECORDING.as_posix()}"' in html
    waveform, rate = soundfile.read(site / aloud.RECORDING)
    assert len(waveform) > 2 * rate
    assert abs(waveform).max() > 0.05


def test_without_espeak_the_page_is_as_it_was(site, monkeypatch):
    def missing():
        raise InputError("espeak-ng is not installed.")

    monkeypatch.setattr(aloud, "Espeak", missing)
    assert not aloud.add_to(site)
    assert (site / aloud.PAGE).read_text() == PAGE
    assert not (site / aloud.RECORDING).exists()
    assert not aloud.add_to(site / "empty")


def test_the_source_has_a_place_for_the_player():
    assert aloud.PLACE in (paths.BOOK / "one-page.md").read_text()
