"""The page that `spiral report` writes, opened from disk in Chromium under its Content-Security-Policy."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Error, Page

from spiral.game import make
from spiral.monitor.transcript import match_html
from spiral.report import write_report
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode
from tests.browser import Opened, browser, needs_chromium
from tests.builders import episode, sampled
from tests.played_run import write_played_run

pytestmark = needs_chromium

HOSTILE = (
    "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
    "<svg onload=\"document.title = 'owned'\"></svg></pre><iframe src='https://example.com'></iframe>"
    "{{ 7 * 7 }} 🂡🂡 \u202eevil\u202c \u200b\x07 &amp; &lt;b&gt; "
)
STEPS, PER_STEP = 6, 40
COUNT_COLOURS = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


def hostile_match() -> Episode:
    """A match whose player 0 writes markup, then a megabyte of text, before an action."""
    game = make("kuhn_poker", 4)
    first = sampled(0, observation=game.observe(0), text=f"{HOSTILE}[check]", action="check")
    game.step("check")
    second = sampled(1, observation=game.observe(1), text=f"{'na ' * 333_333}[bet]", action="bet")
    game.step("bet")
    third = sampled(0, observation=game.observe(0), text=f"[{HOSTILE}]", action=HOSTILE, legal=False)
    return episode(99_999, [first, second, third, third], (-1.0, 1.0), seed=4, end_reason="forfeit", forfeit_by=0)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one of the quickstart's games, with a hostile match in its last step, and one against random play."""
    root = tmp_path_factory.mktemp("runs")
    one = write_played_run(root / "one", STEPS, PER_STEP)
    other = write_played_run(
        root / "other", 4, 12, games=[{"id": "leduc_poker"}, {"id": "connect_four"}], against="random", talks=True,
        overrides=["learner.kl_coef=0"],
    )  # fmt: skip
    EpisodeFiles(one).write(STEPS + 1, [hostile_match()], *np.full((2, 4), 0.5, np.float32))
    write_report([one, other], root / "report.html")
    return root / "report.html"


@pytest.fixture(scope="module")
def young(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has just been started, and another one."""
    root = tmp_path_factory.mktemp("young")
    new, done = write_played_run(root / "new", 1, 2), write_played_run(root / "done", 2, 4)
    (new / "metrics.jsonl").unlink()
    write_report([new, done], root / "report.html")
    return root / "report.html"


@pytest.fixture(scope="module")
def chromium(report: Path, young: Path) -> Iterator[Browser]:
    """After the reports: Playwright keeps an event loop running, in which no match can be played."""
    with browser() as one:
        yield one


def ready(page: Page) -> Page:
    page.wait_for_selector("body[data-ready]")
    return page


def choose(page: Page, name: str, label: str) -> int:
    """Choose the filter's option that begins with `label`; returns how many matches the page says it found."""
    options = page.locator(f"#filters [name={name}] option").all_text_contents()
    page.select_option(f"#filters [name={name}]", label=next(one for one in options if one.startswith(label)))
    found = re.match(r"([\d,]+) of", page.inner_text("#found"))
    assert found
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_opens_without_a_console_message_and_draws_curves(
    chromium: Browser, report: Path, width: int, scheme: str
) -> None:
    with Opened(chromium, report, width, scheme=scheme) as page:
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
        page.locator("[data-section=Strength]").scroll_into_view_if_needed()
        page.wait_for_selector("[data-section=Strength] canvas")
        for canvas in page.locator("[data-section=Strength] canvas").all():
            assert canvas.evaluate(COUNT_COLOURS) > 5
        assert "NashConv" in page.inner_text("#summary")


def test_smoothing_zoom_and_log_axes_draw_again(chromium: Browser, report: Path) -> None:
    with Opened(chromium, report) as page:
        ready(page)
        chart = page.locator("[data-section=Strength] .chart").first
        chart.scroll_into_view_if_needed()

        def drawn() -> str:
            return str(chart.locator("canvas").evaluate("(canvas) => canvas.toDataURL()"))

        seen = [drawn()]
        page.fill("#curve-tools [name=from]", "2")
        seen.append(drawn())
        page.check("#curve-tools [name=logy]")
        seen.append(drawn())
        page.select_option("#curve-tools [name=x]", "hours")
        seen.append(drawn())
        assert len(set(seen)) == 4
        page.click("#curve-tools [type=reset]")
        page.wait_for_timeout(50)
        assert drawn() == seen[0]
        box = chart.locator(".u-over").bounding_box()
        assert box
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 30)
        page.wait_for_selector(".tip")
        assert re.search(r"step \d", page.inner_text(".tip"))
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 30, steps=3)
        page.mouse.up()
        assert float(page.input_value("#curve-tools [name=from]")) > 0


def test_filters(chromium: Browser, report: Path) -> None:
    with Opened(chromium, report) as page:
        ready(page)
        everything = choose(page, "game", "any")
        assert everything == STEPS * PER_STEP + 1 + 4 * 12
        by_game = [choose(page, "game", game) for game in ("kuhn", "textarena", "leduc", "connect")]
        assert sum(by_game) == everything and min(by_game) > 0
        choose(page, "game", "any")
        assert choose(page, "run", "other") == 48
        assert choose(page, "opponent", "random") == 48
        assert choose(page, "opponent", "itself") == 0
        choose(page, "opponent", "any")
        choose(page, "run", "any")
        results = [choose(page, "result", result) for result in ("player 0", "player 1", "draw")]
        assert sum(results) == everything and min(results) > 0
        choose(page, "result", "any")
        assert choose(page, "end", "forfeit") >= 1
        assert choose(page, "illegal", "none") == 0
        choose(page, "end", "any")
        assert choose(page, "illegal", "some") + choose(page, "illegal", "none") == everything
        choose(page, "illegal", "any")
        page.fill("#filters [name=from]", "2")
        page.fill("#filters [name=to]", "3")
        assert page.inner_text("#found").startswith(f"{2 * PER_STEP + 24} of")
        page.fill("#filters [name=words]", "betting")
        assert 0 < choose(page, "game", "any") < 2 * PER_STEP + 24
        assert choose(page, "game", "connect") == 0


def test_a_match_is_stepped_through_from_both_seats(chromium: Browser, report: Path) -> None:
    with Opened(chromium, report) as page:
        ready(page)
        choose(page, "game", "kuhn")
        choose(page, "end", "finished")
        page.locator("#list button").first.click()
        seats = page.locator(".seat")
        texts = []
        for _ in range(page.locator(".steps li").count()):
            views = [seats.nth(role).locator(".view").inner_text() for role in (0, 1)]
            assert views[0].startswith("You are player 0") and views[1].startswith("You are player 1")
            texts.append(views)
            page.keyboard.press("ArrowRight")
        assert page.inner_text(".moves-bar [role=status]") == "the end"
        assert len({betting for betting, _ in texts}) == len(texts)  # the betting goes on from turn to turn
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("k")
        page.keyboard.press("j")
        page.locator(".steps button").first.click()
        mover = page.locator(".seat.moves")
        assert mover.locator("mark").inner_text() in ("[check]", "[bet]")
        assert mover.locator(".token").count() >= 2
        shades = mover.locator(".token").evaluate_all(
            "(all) => all.map((one) => getComputedStyle(one).backgroundColor)"
        )
        assert len(set(shades)) > 1  # the action is less probable than the end of the message
        page.uncheck(".moves-bar input")
        shades = mover.locator(".token").evaluate_all(
            "(all) => all.map((one) => getComputedStyle(one).backgroundColor)"
        )
        assert len(set(shades)) == 1
        assert re.search(r"policy version \d+ +advantage \S\d", " ".join(mover.locator(".facts").inner_text().split()))
        assert mover.locator(".state tbody tr").count() >= 2
        mover.locator("details summary").click()
        assert mover.locator(".history canvas").evaluate(COUNT_COLOURS) > 5
        assert mover.locator(".picture").get_attribute("aria-label").startswith("player 0: ")  # type: ignore[union-attr]
        address = page.url
        page.goto("about:blank")
        page.goto(address)
        assert "kuhn_poker" in ready(page).inner_text(".match h3")


def test_what_a_model_wrote_is_shown_and_never_run(chromium: Browser, report: Path) -> None:
    with Opened(chromium, report) as page:
        ready(page)
        page.fill("#filters [name=words]", "onerror")
        page.locator("#list button").first.click()
        written = page.locator(".seat.moves .answer").inner_text()
        for part in ("</script><script>", "<img src=x onerror=", "<iframe", "{{ 7 * 7 }}", "&amp; &lt;b&gt;"):
            assert part in written
        assert "U+202E" in written and "\u202e" not in written and "U+0007" in written
        assert page.locator(".seat.moves mark").inner_text() == "[check]"
        page.keyboard.press("ArrowRight")
        page.locator(".answer summary").click()
        assert len(page.locator(".answer details pre").inner_text()) > 990_000
        page.keyboard.press("ArrowRight")
        assert "Illegal" in page.inner_text(".seat.moves")
        assert page.title() == "one, other · SPIRAL report"
        assert page.locator("iframe, main img, main svg").count() == 0


def test_not_even_the_page_itself_can_make_markup_of_text(chromium: Browser, report: Path) -> None:
    page = chromium.new_page()
    page.goto(report.as_uri())
    with pytest.raises(Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>no</b>'")
    page.close()


def test_a_single_match_for_wandb(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "match.html").write_text(match_html(hostile_match(), step=3))
    with Opened(chromium, tmp_path / "match.html", 390) as page:
        assert "</script><script>" in page.inner_text("body")
        assert page.title() == "match 99999 of kuhn_poker"
        assert page.locator("script, iframe, img").count() == 0
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.seats')).display") == "grid"
        )  # the style is allowed
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_run_without_rows_beside_another_does_not_stop_the_curves(chromium: Browser, young: Path) -> None:
    with Opened(chromium, young) as page:
        ready(page)
        page.locator("[data-section=Time]").scroll_into_view_if_needed()
        page.wait_for_selector("[data-section=Time] canvas")
        page.fill("#curve-tools [name=from]", "1")


def test_an_address_names_a_turn_that_there_is(chromium: Browser, report: Path) -> None:
    with Opened(chromium, report) as page:
        ready(page)
        for turn, shown in (("-5", "turn 1 of"), ("1.5", "turn 2 of"), ("999", "the end"), ("x", "turn 1 of")):
            page.evaluate(f"location.hash = location.hash.replace(/turn=.*/, 'turn={turn}')")
            page.wait_for_timeout(50)
            assert page.inner_text(".moves-bar [role=status]").startswith(shown)


def test_the_open_match_is_marked_for_screen_readers(chromium: Browser, report: Path) -> None:
    with Opened(chromium, report) as page:
        ready(page)
        page.locator("#list button").nth(1).click()
        page.select_option("#filters [name=sort]", "")  # the list is built anew
        assert page.locator("#list [aria-current]").evaluate("(item) => item.getAttribute('aria-current')") == "true"


def test_a_logarithmic_axis_takes_a_range_without_a_beginning(chromium: Browser, report: Path) -> None:
    with Opened(chromium, report) as page:
        ready(page)
        page.check("#curve-tools [name=logx]")
        page.fill("#curve-tools [name=to]", "4")
        chart = page.locator("[data-section=Strength] .chart").first
        chart.scroll_into_view_if_needed()
        assert chart.locator("canvas").first.evaluate(COUNT_COLOURS) > 5
