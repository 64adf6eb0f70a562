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
SECTIONS = 8
# A frame is a window of any width, whatever the least width of the browser's own; its findings go into the title.
LOOK = """<!doctype html><title>waiting</title><body style="margin:0">
<script>
const widths = WIDTHS, found = {errors: []};
async function look(name, width) {
  const frame = document.createElement('iframe');
  frame.style = `border:0;width:${width}px;height:2000px`;
  frame.src = 'report.html';
  const loaded = new Promise(done => frame.onload = done);
  document.body.append(frame);
  await loaded;
  const page = frame.contentDocument, images = [...page.images], root = page.documentElement;
  await Promise.all(images.map(image => image.decode().catch(error => found.errors.push(String(error)))));
  const wide = [...page.querySelectorAll('body *')].filter(
    element => !element.closest('.box, .account, .skip') && element.getBoundingClientRect().right > width + 1);
  found[name] = {
    scroll: root.scrollWidth, inside: root.clientWidth, decoded: images.filter(image => image.naturalWidth > 0).length,
    images: images.length, sections: page.querySelectorAll('main > section > h2').length,
    alert: !!frame.contentWindow.hit,
    wide: wide.slice(0, 5).map(element => element.outerHTML.slice(0, 90)),
    small: [...page.querySelectorAll('main *')].filter(element => element.children.length === 0
      && element.textContent.trim() && parseFloat(frame.contentWindow.getComputedStyle(element).fontSize) < 9).length,
  };
}
(async () => {
  for (const [name, width] of Object.entries(widths)) await look(name, width);
  document.body.replaceChildren();
  document.title = JSON.stringify(found);
})();
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
    (run / "look.html").write_text(LOOK.replace("WIDTHS", json.dumps(WIDTHS)))
    return run


@pytest.fixture(scope="module")
def seen(run) -> dict:
    """What the browser found at each width, and what it complained of."""
    flags = ("--virtual-time-budget=20000", "--window-size=1400,2000", "--enable-logging=stderr", "--dump-dom")
    done = browse(run.parent, *flags, url=(run / "look.html").as_uri())
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title and title[1] != "waiting", done.stderr[-2000:]
    return {**json.loads(title[1]), "console": [line for line in done.stderr.splitlines() if ":CONSOLE" in line]}


def test_the_console_is_silent_and_nothing_of_the_users_runs(seen):
    assert (seen["console"], seen["errors"]) == ([], []) and not any(seen[name]["alert"] for name in WIDTHS)


@pytest.mark.parametrize("name", WIDTHS)
def test_the_page_never_scrolls_sideways(seen, name):
    assert seen[name]["wide"] == [] and seen[name]["scroll"] <= WIDTHS[name]
    assert seen[name]["inside"] <= WIDTHS[name]


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
