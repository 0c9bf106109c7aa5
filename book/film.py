"""The playground as a short film, book/_static/play/playground.gif, from the site that `make book` has built.

    python book/film.py

It needs Playwright, which the tests bring, and Chromium. A test asks the nets for what README and front page say of it.
"""

import io
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from kdrepro import paths

WIDTH, COLOURS, MARGIN, EVERY = 720, 96, 10, 12
BIASES, TEMPERATURE = (1.5, 3.0, 4.5, 6.0, 7.6), "[data-set='play-t=1.301']"  # T = 20
Shot = tuple[Image.Image, int]  # a picture, and for how many milliseconds it stands


def film(page: Page) -> Iterator[Shot]:
    """Draw a 3, raise the biases of the digits that the net of 7s and 8s never saw, and the temperature."""
    strokes = page.evaluate("() => kdrepro.hands()")["round"][3]["strokes"]
    for _ in drawn(page, strokes):  # loads the nets
        pass
    page.wait_for_function("() => kdrepro.play.nets.every((one) => one.z || !one.wanted)")
    page.click(".play-clear")
    yield _shot(page), 700
    for i in drawn(page, strokes):
        if i % EVERY == 0:
            yield _shot(page), 110
    yield _shot(page), 1600
    for shift in BIASES:
        page.locator("#play-78").fill(str(shift))
        yield _shot(page), 1500 if shift == BIASES[-1] else 250
    page.click(TEMPERATURE)
    yield _shot(page), 2500


def drawn(page: Page, strokes: Sequence[Sequence[tuple[float, float]]]) -> Iterator[int]:
    """Draw strokes of a field of 100 by 100 with the mouse; yields the number of each point when it is drawn."""
    box, count = page.locator(".play-pad").bounding_box(), 0
    for stroke in strokes:
        points = [(box["x"] + x * box["width"] / 100, box["y"] + y * box["height"] / 100) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
            yield (count := count + 1)
        page.mouse.up()


def _shot(page: Page) -> Image.Image:
    """The pad, the answers and the sliders, once the nets have answered."""
    page.evaluate("() => document.activeElement.blur()")
    page.wait_for_timeout(200)
    stage, sliders = (page.locator(name).bounding_box() for name in (".play-stage", ".play-sliders"))
    clip = {
        "x": stage["x"] - MARGIN,
        "y": stage["y"] - MARGIN,
        "width": stage["width"] + 2 * MARGIN,
        "height": sliders["y"] + sliders["height"] - stage["y"] + 2 * MARGIN,
    }
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    return image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.LANCZOS)


def main(out: Path) -> None:
    """Film it, and write it."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto((paths.ROOT / "_build" / "html" / "book" / "play.html").as_uri())
        page.wait_for_selector(".play-pad", state="visible")
        page.add_style_tag(content=".skip-link, #pst-skip-link { display: none !important }")
        page.locator(".play-stage").scroll_into_view_if_needed()
        frames, times = zip(*film(page), strict=True)
        browser.close()
    palette = frames[-2].quantize(COLOURS)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    # Without a loop: it plays once, and nothing moves beside a reader's text.
    first.save(out, save_all=True, append_images=others, duration=times, optimize=True)
    print(f"{out}: {len(frames)} pictures, {sum(times) / 1000:.0f} s, {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(paths.BOOK / "_static" / "play" / "playground.gif")
