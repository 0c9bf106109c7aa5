"""The playground and the explorables in a browser: the numbers are Python's, and what is moved moves something."""

import json
from collections import deque

import numpy as np
import pytest
import torch
from site_in_a_browser import PATIENCE

from kdrepro import data, paths
from kdrepro.errors import InputError
from kdrepro.publishing import explore, play, weights
from kdrepro.verdicts import records

pytestmark = pytest.mark.browser

PUBLISHED = play.there_are(weights.read_index(paths.WEIGHTS))
ANSWERED = "() => kdrepro.play.nets.every((one) => one.z || !one.wanted)"


@pytest.fixture
def quiet_page(browser):
    """A page, and what it says on the console and asks of others."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    yield page, said
    context.close()


@pytest.fixture
def playground(quiet_page, site):
    """The page, opened from its folder and not from a server."""
    page, said = quiet_page
    page.goto((site / "book" / "play.html").as_uri())
    page.wait_for_selector(".play-pad", state="visible")
    yield page
    assert said == []


def needs(*claims):
    missing = [claim for claim in claims if claim not in PUBLISHED]
    return pytest.mark.skipif(bool(missing), reason=f"The weights of {', '.join(missing)} are not published yet.")


def mnist_images():
    try:
        mnist = data.mnist(paths.data_root(None))
    except InputError as error:
        pytest.skip(str(error))
    return mnist.test_images.flatten(1).numpy(), mnist.test_labels.numpy()


def in_the_browser(page, claim, pixels):
    """Logits [B, C] that the page computes of images uint8 [B, 784]."""
    asked = """async ([claim, cases]) => {
      const one = kdrepro.play.nets.find((each) => each.name === claim);
      const layers = await kdrepro.net(claim, one.files);
      return cases.map((pixels) => Array.from(kdrepro.logits(layers, Uint8Array.from(pixels))));
    }"""
    return np.array(page.evaluate(asked, [claim, pixels.tolist()]))


@pytest.mark.parametrize("claim", PUBLISHED)
def test_logits_are_those_of_python(playground, claim):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 784), dtype=np.uint8)
    pixels[:, np.random.default_rng(1).random(784) < 0.7] = 0  # as sparse as digits
    expected = play.answer(play.quantised(weights.load(claim)), pixels)
    assert in_the_browser(playground, claim, pixels).tolist() == expected.tolist()


def draw(page, strokes):
    """Draw strokes of a field of 100 by 100 with the mouse, and wait for the answers."""
    from film import drawn  # here: it imports Playwright, which only tests in a browser need

    page.click(".play-clear")
    page.evaluate("() => kdrepro.play.nets.forEach((one) => { one.z = null; })")
    deque(drawn(page, strokes), maxlen=0)
    page.wait_for_function(ANSWERED)


def answers(page):
    """What each net says now, by its claim."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".play-card")].map((card) => (
          [card.dataset.net, card.querySelector(".play-answer").textContent])))"""
    )


def test_a_drawing_gets_answers_and_the_sliders_move_them(playground):
    playground.locator(".play-pad").scroll_into_view_if_needed()
    draw(playground, [[(50, 10), (50, 90)]])
    before = answers(playground)
    assert before.keys() == set(PUBLISHED)
    assert all(text[0].isdigit() for text in before.values())
    heights = "() => [...document.querySelectorAll('.play-bars i')].map((bar) => bar.style.height)"
    at_1 = playground.evaluate(heights)
    playground.click("[data-set='play-t=1.301']")
    assert playground.input_value("#play-t") == "1.3"
    assert playground.inner_text("#play-t-out") == "20.0"
    at_20 = playground.evaluate(heights)
    assert at_20 != at_1
    assert max(float(h.rstrip("%")) for h in at_20) < max(float(h.rstrip("%")) for h in at_1)


@needs("mnist.teacher", "mnist.plain", "mnist.distilled", "mnist.omit3", "mnist.only78")
def test_the_film_shows_what_its_caption_says(playground):
    """What README and front page say of the nets, of the same strokes; book/film.py makes it."""
    playground.locator(".play-pad").scroll_into_view_if_needed()
    draw(playground, playground.evaluate("() => kdrepro.hands()")["round"][3]["strokes"])
    says = {claim: text[0] for claim, text in answers(playground).items()}
    assert says == dict.fromkeys(says, "3") | {"mnist.only78": "8"}
    playground.locator("#play-78").fill("7.6")
    assert answers(playground)["mnist.only78"][0] == "3"
    assert "%" in playground.get_attribute(".play-bars", "aria-label")
    playground.wait_for_function("() => document.querySelector('.play-live').textContent.includes('says')")


def test_the_keyboard_draws(playground):
    playground.focus(".play-pad")
    for key in [*["ArrowUp"] * 8, " ", *["ArrowDown"] * 16, " "]:
        playground.keyboard.press(key)
    playground.wait_for_function(ANSWERED)
    assert all(text[0].isdigit() for text in answers(playground).values())
    playground.click(".play-clear")
    assert set(answers(playground).values()) == {"–"}


def hand(page, style):
    return page.evaluate("async (style) => (await kdrepro.hands())[style]", style)


@needs("mnist.teacher", "mnist.distilled")
def test_ten_drawn_digits_are_named(playground):
    playground.locator(".play-pad").scroll_into_view_if_needed()
    found = {"mnist.teacher": [], "mnist.distilled": []}
    for one in hand(playground, "round"):
        draw(playground, one["strokes"])
        for claim, text in answers(playground).items():
            if claim in found:
                found[claim].append(text[0] == str(one["digit"]))
    assert {claim: sum(right) >= 9 for claim, right in found.items()} == dict.fromkeys(found, True)


@needs("mnist.omit3")
def test_a_net_that_never_saw_a_3_names_it_once_its_bias_is_raised(playground):
    """Of thirty 3s that the published net misses, as many as it names with the paper's shift."""
    images, labels = mnist_images()
    path = paths.RESULTS / "02-mnist.json"
    # The weights are of the first seed of those that decide.
    commit = records.commits_of_fresh(records.read(path)).get("mnist.omit3")
    arrays = np.load((records.of_fresh(path, commit) if commit else path).with_suffix(".npz"))
    answers, shifted = (arrays[f"without 3{how}"][0] for how in ("", ", the paper's shift"))
    missed = np.flatnonzero((labels == 3) & (answers != 3))[:30]
    logits = in_the_browser(playground, "mnist.omit3", images[missed])
    raised = logits + 3.5 * (np.arange(10) == 3)
    before, after = ((z.argmax(1) == 3).sum() for z in (logits, raised))
    assert len(missed) > 20
    assert before <= 2  # rounded weights may move a logit that lies near another
    assert abs(after - (shifted[missed] == 3).sum()) <= 2
    assert after > before


@needs("mnist.teacher", "mnist.plain")
def test_the_gradient_is_eq_2(playground):
    z, v = np.random.default_rng(0).normal(0, 4, (2, 10))
    found = playground.evaluate("([z, v, t]) => kdrepro.gradient(z, v, t)", [z.tolist(), v.tolist(), 4.0])
    q, p = (torch.softmax(torch.tensor(x) / 4.0, 0) for x in (z, v))
    assert found == pytest.approx(((q - p).norm() / 4).item())


@pytest.mark.skipif(not play.gallery(dict(np.load(paths.RESULTS / "02-mnist.npz"))), reason="No images are published.")
def test_images_are_picked_by_keyboard(playground):
    playground.click(".play-images summary")
    playground.wait_for_selector(".play-gallery button")
    playground.focus(".play-gallery button")
    playground.keyboard.press("ArrowRight")
    playground.wait_for_function(ANSWERED)
    label = playground.get_attribute(".play-gallery button:focus", "aria-label")
    assert playground.inner_text(".play-note") in label.replace(", a ", ", labelled ")


# --- explorables ------------------------------------------------------------------------------------------------------


@pytest.fixture
def explored(quiet_page, site):
    """Opens a chapter and gives its explorable; None where its chapter has not published what it shows."""
    page, said = quiet_page

    def open_chapter(name):
        page.goto((site / "book" / "chapters" / f"{name}.html").as_uri())
        return page if page.query_selector(".explore") else None

    yield open_chapter
    assert said == []


def test_eq_5_of_a_triangle_is_that_of_the_package(explored):
    page = explored("05-specialists")
    cases = [([0.5, 0.3, 0.2], 0.8, 0.15), ([0.1, 0.1, 0.8], 0.02, 0.98), ([0.34, 0.33, 0.33], 0.6, 0.6)]
    for generalist, first, second in cases:
        specialists = [{"of": 0, "p": first}, {"of": 1, "p": second}]
        found = page.evaluate("([g, s]) => kdrepro.combined(g, s)", [generalist, specialists])
        assert found == pytest.approx(explore.answer(generalist, first, second), abs=1e-4)
    dot = page.locator(".explore .answer")
    before = dot.get_attribute("cx")
    slider = page.locator(".explore input").nth(2)
    slider.focus()
    slider.press("Home")
    assert dot.get_attribute("cx") != before
    line = page.locator(".explore .second")
    line.scroll_into_view_if_needed()
    before, box = page.inner_text(".explore .said"), line.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 60)
    page.mouse.up()
    assert page.inner_text(".explore .said") != before


@pytest.mark.parametrize("chapter", ["01-dark-knowledge", "02-mnist"])
def test_a_slider_says_what_it_shows(explored, chapter):
    page = explored(chapter)
    if page is None:
        pytest.skip("The chapter's arrays are not published yet.")
    said = page.inner_text(".explore .said")
    page.focus(".explore input")
    page.keyboard.press("End")
    assert page.inner_text(".explore .said") != said


def test_every_part_is_there_without_a_script(site):
    text = (site / "book" / "chapters" / "05-specialists.html").read_text()
    assert json.dumps(explore.CORNERS) in text
    assert 'class="answer"' in text
