"""The page of an evaluation as a real headless Chromium shows it."""

import pytest
from chromium import BROWSER, tab
from evaluation_folders import HOSTILE, write_folder

from led_rl.reporting.evaluation.folder import read_evaluation
from led_rl.reporting.evaluation.report import write_evaluation_report

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("evaluation"), benchmarks=("gsm8k", "math500"), temperatures=(0.6, 1.0), samples=3
    )


@pytest.fixture(scope="module")
def written(folder):
    return write_evaluation_report(read_evaluation(folder), folder / "out")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with tab(tmp_path_factory.mktemp("profile")) as page:
        yield page


def opened(browser, path, wide=1280):
    browser.errors.clear()
    browser.requests.clear()
    browser.open(path, wide)
    browser.wait_for("document.getElementById('browser')?.dataset.ready")
    return browser


def choose(browser, control, value):
    browser.run(f"(() => {{ const s = document.querySelector({control!r}); s.value = {value!r};"
                "s.dispatchEvent(new Event('change')); })()")  # fmt: skip


def rows_shown(browser):
    return browser.run("[...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.textContent))")


def test_the_page_opens_offline_without_errors_and_is_not_cut_off(browser, written):
    for wide in (1280, 500):
        page = opened(browser, written["page"], wide)
        assert page.run("document.documentElement.scrollWidth") <= wide
        assert page.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert [url for url in page.requests if not url.startswith("data:")] == [f"file://{written['page']}"]
        assert page.errors == []


def test_the_filters_show_what_the_records_hold(browser, folder, written):
    page = opened(browser, written["page"])
    evaluation = read_evaluation(folder)
    assert page.run("document.getElementById('page-place').textContent").startswith("432 of 432 completions")
    choose(page, "#filter-benchmark", "1")
    choose(page, "#filter-arm", "4")
    arm = page.run("document.querySelector('#filter-arm').selectedOptions[0].textContent")
    for value, verdict in (("1", True), ("0", False), ("2", None)):
        choose(page, "#filter-verdict", value)
        expected = [
            place for place in evaluation.places
            if place.group.benchmark == "math500" and place.group.arm == arm
            and evaluation.verdict(*place[:3]).correct is verdict
        ]  # fmt: skip
        assert page.run("document.getElementById('page-place').textContent").startswith(f"{len(expected)} of 432")
        shown = {(row[0], int(row[1]), row[3], row[4]) for row in rows_shown(page)}
        assert shown == {(p.problem, p.sample, p.group.arm, p.group.checkpoint) for p in expected}
    choose(page, "#filter-verdict", "cut")
    cut = [
        p for p in evaluation.places if p.group[0::2] == ("math500", arm) and not evaluation.verdict(*p[:3]).finished
    ]
    assert len(rows_shown(page)) == len(cut)
    assert page.errors == []


def test_two_arms_stand_side_by_side_with_explored_tokens_and_their_parting(browser, folder, written):
    page = opened(browser, written["page"])
    choose(page, "#filter-arm", "2")
    assert page.run("document.querySelector('#filter-arm').selectedOptions[0].textContent") == "led T 0.6"
    page.run("document.querySelector('#rows tr').click()")
    page.wait_for("document.querySelector('#side-b pre span')")
    places = read_evaluation(folder).places
    rows = dict(zip(places, read_evaluation(folder).completions(places), strict=True))

    def row_of(side):
        group = page.run(f"document.querySelector('{side} .group').selectedOptions[0].textContent")
        checkpoint, arm = group.split(" · ")
        key = (("gsm8k", checkpoint, arm), "p0", 0)
        return next(row for place, row in rows.items() if place[:3] == key)

    left, right = row_of("#side-a"), row_of("#side-b")
    assert (left["arm"], right["arm"]) == ("led T 0.6", "standard T 0.6")
    for side, row in (("#side-a", left), ("#side-b", right)):
        assert page.run(f"document.querySelector('{side} pre').textContent") == row["text"]
        marked = page.run(f"[...document.querySelectorAll('{side} pre .explored')].length")
        assert marked == row["explored"].count("1")
    assert "this arm reads no latent layers" in page.run("document.querySelector('#side-b .facts').textContent")
    parting = next(i for i, (a, b) in enumerate(zip(left["token_ids"], right["token_ids"], strict=False)) if a != b)
    said = page.run("document.getElementById('parting').textContent")
    assert f"same for {parting} tokens and part at token {parting + 1}." in said
    assert page.run("[...document.querySelectorAll('#side-a .parted')].length") == 1
    choose(page, "#side-b .group", page.run("document.querySelector('#side-a .group').value"))
    page.wait_for("document.getElementById('parting').textContent === 'Both sides are the same.'")
    assert page.errors == []


def test_what_was_not_recorded_is_said(browser, tmp_path):
    made = write_folder(tmp_path, explored=False, checkpoints=("base",), arms=("led",), problems=1)
    page = opened(browser, write_evaluation_report(read_evaluation(made), tmp_path)["page"])
    page.run("document.querySelector('#rows tr').click()")
    page.wait_for("document.querySelector('#side-a pre span')")
    facts = page.run("document.querySelector('#side-a .facts').textContent")
    assert "which tokens LED explored was not recorded" in facts


def test_hostile_texts_are_shown_and_never_run(browser, tmp_path):
    made = write_folder(tmp_path, hostile=True, checkpoints=("base",), arms=("led", "standard"))
    page = opened(browser, write_evaluation_report(read_evaluation(made), tmp_path)["page"])
    shown = set()
    for sample in range(4):
        for problem in range(6):
            page.run(f"document.querySelectorAll('#rows tr')[{problem * 8 + sample}].click()")
            page.wait_for(f"document.getElementById('problem-title').textContent === 'problem p{problem}'")
            page.wait_for(f"document.querySelector('#side-a .sample').value === '{sample}'")
            shown.add(page.run("document.querySelector('#side-a pre').textContent"))
    assert page.run("document.title") == f"Evaluation {tmp_path.name}"
    assert len(shown) == len(HOSTILE)
    assert set(HOSTILE[:2]) <= shown
    assert any("nul ⟨U+0000⟩" in text for text in shown)
    assert any("⟨U+202E⟩right to left" in text for text in shown)
    assert any("lone ⟨U+D800⟩ and ⟨U+DFFF⟩ surrogates, \U0001f600 a pair" in text for text in shown)
    assert page.run("document.getElementById('prompt').textContent") == HOSTILE[0]
    assert "no token ids or tokenizer" in page.run("document.querySelector('#side-a .facts').textContent")
    assert page.errors == []


def test_ten_thousand_completions_stay_usable(browser, tmp_path):
    made = write_folder(tmp_path, problems=834, samples=4, tokens=100, checkpoints=("base",))
    path = write_evaluation_report(read_evaluation(made), tmp_path)["page"]
    assert path.stat().st_size < 5e6
    browser.errors.clear()
    browser.open(path)
    assert browser.wait_for("document.getElementById('browser')?.dataset.ready === '10008'") < 20
    browser.run("document.querySelector('#page-on').click()")
    assert "page 2 of 201" in browser.run("document.getElementById('page-place').textContent")
    browser.run("document.querySelector('#rows tr').click()")
    assert browser.wait_for("document.querySelector('#side-b pre span')") < 10
    assert browser.run("document.getElementsByTagName('*').length") < 2500
    assert browser.errors == []
