"""The report in a real browser: headless Chromium at the width of a desk, of a phone, and of paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fabricated_run import write_run
from m4oe.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--allow-file-access-from-files",
)  # fmt: skip
WIDTHS = {"desk": 1280, "tablet": 768, "phone": 390, "small phone": 320}
SECTIONS = 9
# A frame is a window of any width, whatever the least width of the browser's own. All is measured within the load
# event, before the browser writes down the page, so that a slow machine changes nothing; the findings become the title.
FRAME = '<iframe name="{name}" src="report.html" style="border:0;width:{width}px;height:2000px"></iframe>'
LOOK = """<!doctype html><title>waiting</title><body style="margin:0">FRAMES<script>
function drawn(image) {  // throws for a broken picture
  const canvas = document.createElement('canvas').getContext('2d');
  canvas.drawImage(image, 0, 0);
  return image.naturalWidth > 0;
}
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement, width = frame.clientWidth;
  const all = [...page.querySelectorAll('main *, header *')];
  const size = element => parseFloat(frame.contentWindow.getComputedStyle(element).fontSize);
  const wide = all.filter(e => !e.closest('.box, .account') && e.getBoundingClientRect().right > width + 1);
  return {
    width, scroll: root.scrollWidth, sections: page.querySelectorAll('main > section > h2').length,
    images: page.images.length, decoded: [...page.images].filter(drawn).length, hit: !!frame.contentWindow.hit,
    wide: wide.slice(0, 5).map(e => e.outerHTML.slice(0, 90)),
    small: all.filter(e => !e.children.length && e.textContent.trim() && size(e) < 9).length,
  };
}
window.onload = () => {
  const frames = [...document.querySelectorAll('iframe')].map(frame => [frame.name, look(frame)]);
  document.body.replaceChildren();
  document.title = JSON.stringify(Object.fromEntries(frames));
};
</script>"""


def browse(folder: Path, *flags: str, url: str) -> subprocess.CompletedProcess[str]:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    profile = folder / "profile"
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *flags, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = write_run(tmp_path_factory.mktemp("browser"), first_exam="<script>window.hit=1</script>")
    write_report(run)
    frames = "".join(FRAME.format(name=name, width=width) for name, width in WIDTHS.items())
    (run / "look.html").write_text(LOOK.replace("FRAMES", frames))
    return run


@pytest.fixture(scope="module")
def seen(run) -> dict:
    """What the browser found at each width, and what it complained of."""
    flags = ("--window-size=1400,2000", "--enable-logging=stderr", "--dump-dom")
    done = browse(run.parent, *flags, url=(run / "look.html").as_uri())
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title and title[1] != "waiting", done.stderr[-2000:]
    return {**json.loads(title[1]), "console": [line for line in done.stderr.splitlines() if ":CONSOLE" in line]}


def test_the_console_is_silent_and_nothing_of_the_users_runs(seen):
    assert seen["console"] == [] and not any(seen[name]["hit"] for name in WIDTHS)


@pytest.mark.parametrize("name", WIDTHS)
def test_the_page_never_scrolls_sideways(seen, name):
    assert seen[name]["width"] == WIDTHS[name]
    assert seen[name]["wide"] == [] and seen[name]["scroll"] <= WIDTHS[name]


@pytest.mark.parametrize("name", WIDTHS)
def test_all_sections_and_pictures_are_seen(seen, name):
    assert seen[name]["sections"] == SECTIONS
    assert seen[name]["images"] == seen[name]["decoded"] > 6


@pytest.mark.parametrize("name", WIDTHS)
def test_no_writing_is_too_small_to_read(seen, name):
    assert seen[name]["small"] == 0


def test_it_prints_on_a_few_pages(run, tmp_path):
    file = tmp_path / "report.pdf"
    browse(run.parent, "--no-pdf-header-footer", f"--print-to-pdf={file}", url=(run / "report.html").as_uri())
    pages = len(re.findall(rb"/Type\s*/Page\b", file.read_bytes()))
    assert 6 <= pages <= 24
