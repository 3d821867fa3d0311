# SPDX-License-Identifier: Apache-2.0
"""Takes the pictures of the demos that the documentation shows: `python tests/support/screenshots.py [SPACE ...]`.

Each page is used as a visitor would: an example with the default model, a suggestion with the default settings.
HUBSEP_MODEL stands in for a model that is not shipped.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from pages import ROOT, Demo, Page, wait


IMAGES = ROOT / "docs/images"
PATIENCE = 900  # seconds
STEPS = {
    "separation": ([("button", "A street"), ("#go", "")], "sounds. Play"),
    "text-to-audio": ([(".suggestions button", "rain"), ("#go", "")], "Made with seed"),
}


def take(name: str, target: Path, width: int = 1280) -> None:
    """Writes the whole page of a Space, with results, as PNG; one narrower than 500 is a telephone's."""
    clicks, told = STEPS[name]
    with tempfile.TemporaryDirectory() as place:
        demo = Demo(name, Path(place))
        try:
            page = Page(demo.url, Path(place), width)
            try:
                for number, (selector, text) in enumerate(clicks):
                    page.click(selector, text)
                    if number == 0:
                        wait(lambda: filled(page), PATIENCE)
                wait(lambda: told in page.text("#status"), PATIENCE)
                wait(lambda: drawn(page), PATIENCE)
                target.write_bytes(picture(page))
            finally:
                page.close()
        finally:
            demo.close()


def filled(page: Page) -> bool:
    """Whether the text and, if one is asked for, the recording have arrived."""
    texts = page.run("return [...document.querySelectorAll('textarea')].map(each => each.value).join('')")
    return bool(texts) and page.text("#recording").count("0:") in (0, 2)


def drawn(page: Page) -> bool:
    """Whether each player that can be seen knows how long its sound is."""
    players = [element.text for element in page.find(".result") if element.is_displayed()]
    return bool(players) and all(text.count("0:") >= 2 and not text.endswith("0:00\n0:00") for text in players)


def picture(page: Page) -> bytes:
    """The page from top to bottom."""
    height = page.run("window.scrollTo(0, 0); return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": page.width(), "height": height, "scale": 1}
    options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    return base64.b64decode(page.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"])


def main(names: list[str]) -> None:
    """Takes the pictures of these Spaces, by default of all."""
    for name in names or list(STEPS):
        target = IMAGES / f"space-{name}.png"
        take(name, target)
        print(target.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
