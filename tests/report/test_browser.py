"""Both reports in a real browser: they fit any screen, in light and dark, and ask nobody for anything."""

from __future__ import annotations

import html
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from report.inspected import almost_empty, complete
from report.training import trained
from secant.race.records import RunRecord, Status
from secant.report.inspection_page import render as render_inspection
from secant.report.page import render as render_race
from secant.verdict.records import InspectionRecord, LayerFlow, Quantity

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--virtual-time-budget=10000", "--dump-dom"),
]
SCHEMES = {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}
WIDTHS = (360, 800, 1440)

# The page that measures the reports: each in a frame of a given width, whatever can be opened opened.
WRAPPER = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><body>{frames}<pre id="found"></pre><script>
const inside = (box, page) => box.left >= page.left - 2 && box.right <= page.right + 2 && box.top >= page.top - 2 && box.bottom <= page.bottom + 2;
const shared = (low, high, itsLow, itsHigh) => Math.min(high, itsHigh) - Math.max(low, itsLow);
// Boxes may touch at a corner: letters do not fill them.
const meet = (a, b) => shared(a.left, a.right, b.left, b.right) > 1 && shared(a.top, a.bottom, b.top, b.bottom) > 0.5 * Math.min(a.height, b.height);
const measured = (frame) => {{
  const page = frame.contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(each => each.open = true);
  const outside = [], overlapping = [];
  for (const figure of page.querySelectorAll("svg")) {{
    const texts = [...figure.querySelectorAll("text")].map(each => [each.textContent.replace(/\\s+/g, ""), each.getBoundingClientRect()]);
    texts.forEach(([text, box]) => inside(box, figure.getBoundingClientRect()) || outside.push(text));
    texts.forEach(([text, box], i) => texts.slice(i + 1).forEach(([other, its]) => meet(box, its) && overlapping.push(text + " | " + other)));
  }}
  return {{available: frame.clientWidth, needed: root.scrollWidth, figures: page.querySelectorAll("svg").length, outside, overlapping,
    background: frame.contentWindow.getComputedStyle(page.body).backgroundColor}};
}};
addEventListener("load", () => {{
  const found = Object.fromEntries([...document.querySelectorAll("iframe")].map(frame => [frame.id, measured(frame)]));
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script>"""

pytestmark = [pytest.mark.skipif(BROWSER is None, reason="needs chromium, chromium-browser or google-chrome"), pytest.mark.slow]


def opened(page: str, folder: Path, flags: list[str]) -> tuple[str, list[str]]:
    """The page's elements after its scripts ran, and the addresses that it asked for; a port where nobody listens stands for the network."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        proxy = f"--proxy-server=127.0.0.1:{deaf.getsockname()[1]}"
        words = [str(BROWSER), *FLAGS, *flags, proxy, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={folder / 'net.json'}"]
        answer = subprocess.run([*words, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120, check=True)
    events = json.loads((folder / "net.json").read_text(encoding="utf-8"))["events"]
    # The browser's own calls home have no page as their origin.
    started = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return answer.stdout, [request["url"] for request in started if request["initiator"] != "not an origin"]


def large() -> InspectionRecord:
    """Long names and long numbers everywhere."""
    record, n = complete(), 912_345
    assert record.spectrum is not None
    assert record.health is not None
    counts = dict.fromkeys(("rank", "positive", "zero", "negative"), Quantity(value=812_345.0, bounds=(700_123.0, 899_999.0)))
    names = [f"transformer.encoder.layers.{layer}.multi_head_attention.MMMMMMMMMM.weight" for layer in range(60)]
    flow = [LayerFlow(name=name, gradient_rms=1.23e-4, ratio=1.0, zeros=0.0, flag="Exploding." if index % 2 else "") for index, name in enumerate(names)]
    return record.model_copy(
        update={
            "name": "a_module_with_a_very_long_name_of_its_own.and_another_inside:a_function_with_a_very_long_name",
            "parameters": n,
            "spectrum": record.spectrum.model_copy(update={"parameters": n, **counts}),
            "health": record.health.model_copy(update={"flow": tuple(flow)}),
            "runs": tuple(run.model_copy(update={"method": f"MMMM-long-name-of-{run.method}", "outcome": "Stopped. " * 20}) for run in record.runs),
        }
    )


@pytest.fixture
def reports(record: Callable[..., RunRecord]) -> dict[str, str]:
    methods = [record(f"method-with-a-long-name-{index}", seed, 10.0 ** -(index % 5)) for index in range(12) for seed in (0, 1)]
    names = tuple(f"transformer.encoder.layers.{layer}.multi_head_attention.MMMMMMMMMM" for layer in range(60))
    reason = "ArithmeticError: The training loss was not finite at 3 measured moments in a row, the last after 1,234 steps."
    training = [trained(f"method-with-a-long-name-{index}", seed, 10.0 ** -(index % 5), layers=names, outcome=reason) for index in range(3) for seed in (0, 1)]
    training[-1] = training[-1].model_copy(update={"status": Status.FAILED})
    return {
        "race": render_race(methods),
        "training": render_race(training),
        "inspection": render_inspection(complete()),
        "large": render_inspection(large()),
        "empty": render_inspection(almost_empty()),
    }


@pytest.mark.parametrize("scheme", SCHEMES)
def test_both_reports_fit_every_width_and_ask_nobody(scheme: str, reports: dict[str, str], tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe id="{name}-{width}" style="border:0;width:{width}px;height:800px" srcdoc="{html.escape(report)}"></iframe>'
        for name, report in reports.items()
        for width in WIDTHS
    )
    elements, asked = opened(WRAPPER.format(frames=frames), tmp_path, SCHEMES[scheme])
    assert asked == []
    found = found_in(elements)
    assert len(found) == len(reports) * len(WIDTHS)
    for name, page in found.items():
        assert page["available"] == int(name.rpartition("-")[2])
        assert page["needed"] <= page["available"], f"{name} needs {page['needed']} pixels"
        assert page["outside"] == [], f"{name}: text outside its figure"
        assert page["overlapping"] == [], f"{name}: text over text"
        assert page["background"] == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(15, 19, 24)")
    assert found["inspection-360"]["figures"] > found["race-360"]["figures"] > found["empty-360"]["figures"] == 0


def test_what_is_wrong_with_a_page_is_noticed(tmp_path: Path) -> None:
    """The test above can fail: a picture from elsewhere, a line that is too wide, and one label over another are found."""
    labels = '<svg width="100" height="50"><text y="20">one</text><text y="22">two</text><text x="95" y="40">three</text></svg>'
    page = f'<img src="http://somewhere.invalid/pixel.png"><p style="width:500px">wide</p>{labels}'
    elements, asked = opened(WRAPPER.format(frames=f'<iframe id="bad" style="border:0;width:360px" srcdoc="{html.escape(page)}"></iframe>'), tmp_path, [])
    assert asked == ["http://somewhere.invalid/pixel.png"]
    found = found_in(elements)["bad"]
    assert found["needed"] > found["available"]
    assert found["overlapping"] == ["one | two"]
    assert found["outside"] == ["three"]


def found_in(elements: str) -> dict[str, Any]:
    text = elements.partition('<pre id="found">')[2].partition("</pre>")[0]
    found: dict[str, Any] = json.loads(html.unescape(text))
    return found
