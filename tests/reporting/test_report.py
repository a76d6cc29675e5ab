"""The console table and the HTML page, rendered from synthetic data of a real run's shape."""

import base64
import functools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from led_rl.evaluation.estimates import Estimate
from led_rl.evaluation.layers.entropy import LayerEntropies, _ratio_of_sums
from led_rl.evaluation.summary import SummaryRow, summarise
from led_rl.reporting.console import console_table
from led_rl.reporting.content import SMALL_MODEL_CAVEAT, Metric, Report, format_estimate
from led_rl.reporting.findings import findings
from led_rl.reporting.histories import series, smooth, smoothing_window
from led_rl.reporting.page import page
from led_rl.reporting.report import FIGURES, sections_of, svg, write_report
from led_rl.reporting.style import colour

ARMS = ("standard", "top_k_control", "led")
SOLVE_RATES = {"base": 0.22, "standard-trained": 0.30, "led-trained": 0.32}


def synthetic_records(problems=200, samples=16, chunk_size=25, seed=0):
    generator = np.random.default_rng(seed)
    records = []
    for checkpoint, rate in SOLVE_RATES.items():
        difficulty = generator.beta(rate * 1.6, (1 - rate) * 1.6, problems)
        for arm in ARMS:
            for chunk in range(problems // chunk_size):
                tokens = 0
                for problem in range(chunk * chunk_size, (chunk + 1) * chunk_size):
                    correct = (generator.random(samples) < difficulty[problem]).tolist()
                    thinking = generator.integers(12, 72, samples).tolist()
                    rewards = [None if problem == 3 and j == 0 else float(right) for j, right in enumerate(correct)]
                    records.append(
                        {
                            "kind": "problem", "checkpoint": checkpoint, "arm": arm, "chunk": chunk,
                            "problem": str(problem), "rewards": rewards,
                            "correct": [None if reward is None else reward == 1 for reward in rewards],
                            "thinking_tokens": thinking, "answer_tokens": [9] * samples,
                            "finished": (generator.random(samples) > 0.03).tolist(),
                        }
                    )  # fmt: skip
                    tokens += sum(thinking) + 9 * samples
                speed = generator.normal(1950 if arm == "standard" else 1880, 60)
                row = {"kind": "chunk", "checkpoint": checkpoint, "arm": arm, "chunk": chunk, "problems": chunk_size}
                records.append({**row, "wall_s": tokens / speed, "tokens": tokens})
    return records


def synthetic_history(steps=50, led=True, seed=0):
    generator = np.random.default_rng(seed)
    history = []
    for step in range(1, steps + 1):
        thinking = 42 - 0.1 * step + generator.normal(0, 2)
        entry = {
            "step": step, "epoch": step / 500, "loss": 0.01, "grad_norm": 0.3, "learning_rate": 3e-4,
            "reward": float(np.clip(0.2 + 0.003 * step + generator.normal(0, 0.04), 0, 1)), "reward_std": 0.3,
            "completions/mean_length": thinking + 9,
            "rollout/thinking_length": thinking, "rollout/answer_length": 9 + generator.normal(0, 0.2),
            "rollout/total_length": thinking + 9, "rollout/tokens_per_second": 1900.0,
            "time/rollout": 2.4 + generator.gamma(2, 0.1), "time/reward": 0.05,
            "time/training": 1.6 + generator.gamma(2, 0.05), "time/weight_sync": 0.12,
        }  # fmt: skip
        if led:
            entry |= {
                "led/explored_fraction": 0.12 + generator.normal(0, 0.01), "led/confidence": 0.86,
                "led/entropy_mu": 0.41 + generator.normal(0, 0.02), "led/entropy_final": 0.33 - 0.001 * step,
                **{f"led/depth_{j}": share for j, share in enumerate((0.11, 0.16, 0.24, 0.49))},
            }  # fmt: skip
        history.append(entry)
    history.append({"step": steps, "train_runtime": 210.0, "train_loss": 0.01})  # as the Trainer ends a log
    return history


def synthetic_entropies():
    generator = np.random.default_rng(0)
    counts = generator.integers(12, 72, 200)
    base = np.array([0.97, 0.74, 0.58, 0.44, 0.33, 0.25, 0.18, 0.11, 0.069])
    per_token = base * generator.normal(1, 0.1, (200, 1))  # (sequences, layers + 1)
    arch = np.sin(np.arange(9) / 8 * np.pi) - 0.9 * (np.arange(9) == 8)
    entropies = {}
    for label, change in {"base": 0.0, "standard-trained": 0.012, "led-trained": 0.02}.items():
        sums = (per_token + change * arch + generator.normal(0, 0.01, (200, 9))) * counts[:, None]
        mean, error = _ratio_of_sums(sums, counts)
        entropies[label] = LayerEntropies(
            mean.tolist(), error.tolist(), int(counts.sum()), 200, sums.tolist(), counts.tolist()
        )
    return entropies


@functools.cache
def synthetic_rows():
    return summarise(synthetic_records(), checkpoint_comparisons=[("led-trained", "standard-trained")])


def synthetic_report(**changes):
    content = {
        "title": "LED-RL quickstart: countdown, 0.65 M parameters",
        "rows": synthetic_rows(),
        "histories": {
            "standard rollouts": synthetic_history(led=False, seed=1),
            "LED rollouts": synthetic_history(seed=2),
        },
        "entropies": synthetic_entropies(),
        "settings": {
            "model": "Qwen3 architecture, 8 layers, hidden 96",
            "training": {"steps": 50, "prompts per step": 16, "rollouts per prompt": 8, "learning rate": 3e-4},
            "evaluation": {"samples": 16, "temperature": 1.0, "depth": 4, "k": 8, "max tokens": 131},
        },
        "locations": {"base checkpoint": "runs/quickstart/base", "W&B run": "runs/quickstart/wandb/offline-run-1"},
        "rollouts_per_step": 128,
    }
    return Report(**(content | changes))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    pictures = write_report(folder / "report.html", synthetic_report())
    return (folder / "report.html").read_text(encoding="utf-8"), pictures


class Resources(HTMLParser):
    """What the page would load, its text, and whether its tags are balanced."""

    def __init__(self):
        super().__init__()
        self.urls, self.text, self.open, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.urls += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def parsed(html):
    resources = Resources()
    resources.feed(html)
    assert resources.open == []
    return resources


def test_the_page_loads_nothing_and_holds_every_figure(rendered):
    html, pictures = rendered
    resources = parsed(html)
    assert len(resources.urls) == len(FIGURES)
    assert all(url.startswith("data:image/svg+xml;base64,") for url in resources.urls)
    assert not {"script", "link", "iframe", "object"} & set(resources.tags)
    assert "@import" not in html
    assert "url(" not in html
    for name in FIGURES:
        assert f'id="{name}"' in html
        assert pictures[name].read_bytes().startswith(b"\x89PNG")
    for url in resources.urls:
        svg = base64.b64decode(url.split(",")[1]).decode()
        assert "<svg" in svg
        assert not re.search(r'(?:href|src)="(?!#|data:)', svg)


def test_the_page_says_what_it_found_with_n_and_the_caveat(rendered):
    text = " ".join(parsed(rendered[0]).text)
    assert SMALL_MODEL_CAVEAT in text
    assert "led against standard: same weights, same n = 200 problems." in text
    assert "led-trained against standard-trained: same decoding, same n = 200 problems." in text
    assert "Training with LED rollouts: 50 steps of 128 rollouts; mean reward 0." in text
    assert re.search(r"corrected \(Holm\) over the \d+ tests that were made", text)
    assert "9 of 28,800 samples could not be judged" in text
    assert "200 problems × 16 samples" in text
    assert "time over 8 chunks" in text
    assert re.search(r"n = \d,\d{3} tokens of 200 sequences", text)
    assert re.search(
        r"Entropy of led-trained against base, .* \(−0.01\d\d ± 0.00\d\d\), layers between .* \+0.01\d\d ± 0.00\d\d on",
        text,
    )
    assert "n = 128 rollouts a step" in text
    for key in ("training.learning rate", "runs/quickstart/base", "runs/quickstart/wandb/offline-run-1"):
        assert key in text


def test_every_figure_of_a_row_is_in_the_table_with_its_interval(rendered):
    text = " ".join(parsed(rendered[0]).text)
    row = next(row for row in synthetic_report().rows if (row.checkpoint, row.arm) == ("led-trained", "led"))
    for name, scale, decimals in (
        ("pass@1", 100, 1),
        ("pass@16", 100, 1),
        ("total_tokens", 1, 1),
        ("tokens_per_s", 1, 0),
    ):
        metric = row.metrics[name]
        value, low, high = (f"{scale * number:,.{decimals}f}" for number in (metric.value, metric.low, metric.high))
        assert re.search(rf"{re.escape(value)}\s+\[{re.escape(low)}, {re.escape(high)}\]", text), name


def test_the_same_data_give_the_same_figures(rendered):
    assert base64.b64encode(svg(FIGURES["pass_at_k"](synthetic_report()))).decode() in rendered[0]


def test_text_is_escaped_and_never_taken_for_mathematics():
    hostile = '<script>alert("1")</script> $x_{$ & é'
    history = synthetic_history(3)
    report = Report(
        title=hostile,
        rows=[SummaryRow(hostile, hostile, summarise(synthetic_records(50))[0].metrics, 50, 800, 0)],
        histories={hostile: history},
        entropies={hostile: LayerEntropies([0.5, 0.2], [0.1, 0.1], 10, 2)},
        settings={hostile: hostile},
        locations={hostile: hostile},
        caveat=hostile,
    )
    for draw in FIGURES.values():
        draw(report).canvas.draw()
    html = page(report, sections_of(report, dict.fromkeys(FIGURES, b"")))
    assert "script" not in parsed(html).tags
    assert hostile in " ".join(parsed(html).text)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": (), "histories": {}, "entropies": {}, "settings": {}, "locations": {}, "rollouts_per_step": None},
        {"histories": {"bare": [{"step": 1, "loss": 0.5}, {"train_runtime": 3.0}]}},
        {"histories": {"empty": []}},
        {"histories": {"short": synthetic_history(2)}, "entropies": {"base": synthetic_entropies()["base"]}},
        {"histories": {"nan": [{"step": 1, "reward": float("nan"), "time/rollout": 1.0}, {"step": 2, "reward": 0.1}]}},
        {
            "entropies": {
                "a": LayerEntropies([0.5, 0.1], [float("nan")] * 2, 5, 1),
                "b": LayerEntropies([0.4], [0.1], 5, 2),
            }
        },
    ],
)
def test_missing_data_is_said_instead_of_a_crash(changes):
    report = synthetic_report(**changes)
    for name, draw in FIGURES.items():
        figure = draw(report)
        figure.canvas.draw()
        assert all(axes.lines or axes.patches or axes.texts for axes in figure.axes), name
    parsed(page(report, sections_of(report, dict.fromkeys(FIGURES, b""))))


def test_missing_keys_are_named_in_the_figure():
    report = synthetic_report(histories={"LED rollouts": [{"step": 1, "reward": 0.5, "time/rollout": 2.0}]})
    words = {
        name: " ".join(text.get_text() for axes in draw(report).axes for text in _texts(axes))
        for name, draw in FIGURES.items()
    }
    assert "rollout/thinking_length" in words["rollout_length"]
    assert "not logged: reward, training, weight sync" in words["wall_time"]
    assert "led/explored_fraction" in words["led_in_training"]
    assert "led/depth_0" in words["led_in_training"]
    assert "not logged" not in words["reward"]


def _texts(axes):
    legend = axes.get_legend()
    return [*axes.texts, *(legend.get_texts() if legend else [])]


def test_raw_values_stay_visible_under_the_smoothing():
    axes = FIGURES["reward"](synthetic_report()).axes[0]
    for run, history in synthetic_report().histories.items():
        raw = series(history, "reward")[1]
        lines = [line.get_ydata() for line in axes.lines if line.get_color() == colour(run)]
        assert any(np.array_equal(line, raw) for line in lines)
        assert any(np.array_equal(line, smooth(raw)) for line in lines)


def test_smoothing_keeps_constants_and_means_and_leaves_short_runs_alone():
    np.testing.assert_allclose(smooth(np.full(40, 2.0)), 2.0)
    values = np.random.default_rng(0).normal(size=101)
    window = smoothing_window(101)
    assert window % 2 == 1
    assert smooth(values)[50] == pytest.approx(values[50 - window // 2 : 51 + window // 2].mean())
    np.testing.assert_array_equal(smooth(values[:10]), values[:10])


def test_console_table_is_aligned_plain_text_with_intervals_and_n():
    table = console_table(synthetic_report().rows)
    blocks = table.split("\n\n")
    assert len(blocks) == 5  # three checkpoints, their difference, the explanation
    assert blocks[0].startswith("base: 200 problems × 16 samples; time over 8 chunks; 3 samples could not be judged")
    head, rule, *lines = blocks[0].splitlines()[1:]
    assert len({len(line) for line in (head, rule, *lines)}) == 1
    assert head.split("  ")[-1].strip() == "led − top_k_control"
    assert re.fullmatch(r"pass@1 \(%\)( +[+−]?\d+\.\d \[[+−]?\d+\.\d, [+−]?\d+\.\d\]){5}", lines[0])
    assert re.fullmatch(r"n problems( +200){5}", lines[-3])
    assert re.fullmatch(r"n samples( +3,199){3}( +6,398){2}", lines[-2])
    assert max(map(len, table.splitlines())) <= 150
    assert console_table([]).startswith("[low, high]")


@pytest.mark.parametrize(
    ("estimate", "unit", "signed", "expected"),
    [
        (Estimate(0.1234, 0.1, 0.15, 9), "%", False, ("12.3", "[10.0, 15.0]")),
        (Estimate(-0.004, -0.02, 0.0104, 9), "%", True, ("−0.4", "[−2.0, +1.0]")),
        (Estimate(-0.0001, -0.0, 0.0, 9), "%", True, ("0.0", "[0.0, 0.0]")),
        (Estimate(1950.4, 1899.6, 2001.0, 7), "tokens/s", False, ("1,950", "[1,900, 2,001]")),
        (Estimate(3.14159, float("nan"), float("nan"), 1), "s", False, ("3.14", "")),
        (Estimate(float("nan"), float("nan"), float("nan"), 0), "%", False, ("–", "")),
        (None, "s", False, ("–", "")),
    ],
)
def test_numbers_are_written_with_their_interval(estimate, unit, signed, expected):
    assert format_estimate(estimate, Metric("", "", unit, 100 if unit == "%" else 1), signed) == expected


def test_verdicts_follow_the_interval():
    def row(low, high):
        metrics = {"pass@1": Estimate((low + high) / 2, low, high, 50), "tokens_per_s": Estimate(1, 1, 1, 3)}
        return SummaryRow("base", "led − standard", metrics, 50, 400, 0, compares="arms")

    verdicts = [
        findings(Report("t", rows=[row(*ends)]))[0].details[0] for ends in ((0.01, 0.02), (-0.02, -0.01), (-0.01, 0.02))
    ]
    assert verdicts == [
        "pass@1: higher on base (+1.5 points [+1.0, +2.0]).",
        "pass@1: lower on base (−1.5 points [−2.0, −1.0]).",
        "pass@1: no difference shown on base (+0.5 points [−1.0, +2.0]).",
    ]


def test_labels_keep_their_colours():
    assert colour("led") == colour("led-trained") == colour("LED rollouts") == colour("quickstart_led")
    assert colour("standard") == colour("standard-trained") != colour("led")
    assert colour("top_k_control") not in (colour("led"), colour("standard"))
    assert colour("sled") != colour("led")
    assert colour("other", 0) != colour("another", 1)


def test_a_real_log_history_survives_json(tmp_path):
    state = json.loads(json.dumps({"log_history": synthetic_history(4)}))
    steps, rewards = series(state["log_history"], "reward")
    assert steps.tolist() == [1, 2, 3, 4]
    assert len(rewards) == 4
