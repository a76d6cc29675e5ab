"""Figures of training runs, from the `log_history` in each run's trainer_state.json."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from led_rl.reporting.histories import Histories, series
from led_rl.reporting.style import (
    colour,
    draw_series,
    legend_on_top,
    new_figure,
    percent_axis,
    say,
    styled,
    whole_steps,
)

TIMES = {
    "time/rollout": ("rollout", "#6c5b9e"),
    "time/reward": ("reward", "#e0a83c"),
    "time/training": ("training", "#a9b4c0"),
    "time/weight_sync": ("weight sync", "#cc6677"),
}
LENGTHS = {
    "rollout/thinking_length": "thinking",
    "rollout/answer_length": "answer",
    "rollout/total_length": "total",
}
DEPTH = "led/depth_"


@styled
def reward_figure(histories: Histories) -> Figure:
    """Mean reward of the rollouts at each step."""
    figure, (axes,) = new_figure(1, height=3.2)
    _draw_runs(axes, histories, "reward")
    legend_on_top(figure, axes)
    axes.set(xlabel="training step", ylabel="mean reward of the rollouts")
    return figure


@styled
def length_figure(histories: Histories) -> Figure:
    """Thinking, answer and total tokens of the rollouts at each step."""
    figure, panels = new_figure(3, height=3.1)
    for axes, (key, name) in zip(panels, LENGTHS.items(), strict=True):
        _draw_runs(axes, histories, key)
        axes.set(title=name, xlabel="training step")
    legend_on_top(figure, max(panels, key=lambda axes: len(axes.lines)))
    panels[0].set_ylabel("tokens per rollout")
    return figure


@styled
def time_figure(histories: Histories) -> Figure:
    """Wall seconds of each step, stacked by what they were spent on; one panel per run."""
    figure, panels = new_figure(max(1, len(histories)), height=3.5, share_y=True)
    if not histories:
        say(panels[0], "no training run was given")
    highest = 0.0
    for axes, (run, history) in zip(panels, histories.items(), strict=False):
        axes.set(title=run, xlabel="training step")
        every = {key: dict(zip(*series(history, key), strict=True)) for key in TIMES}
        logged = {key: by_step for key, by_step in every.items() if by_step}
        if not logged:
            say(axes, "not logged: " + ", ".join(TIMES))
            continue
        steps = np.array(sorted(set().union(*logged.values())))
        spacing = np.diff(steps).min() if len(steps) > 1 else 1.0
        width = spacing * (0.7 if len(steps) < 30 else 1.0)
        bottom = np.zeros(len(steps))
        for key, by_step in logged.items():
            name, shade = TIMES[key]
            seconds = np.array([by_step.get(step, 0.0) for step in steps])
            label = f"{name}: mean {seconds.mean():.3g} s"
            axes.bar(steps, seconds, width, bottom, color=shade, label=label, lw=0)
            bottom += seconds
        if missing := [name for key, (name, _) in TIMES.items() if key not in logged]:
            axes.plot([], [], " ", label="not logged: " + ", ".join(missing))
        highest = max(highest, bottom.max())
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.17), ncols=2)
        whole_steps(axes)
    if highest:
        panels[0].set_ylim(0, 1.03 * highest)
        panels[0].set_ylabel("seconds per step")
    return figure


@styled
def led_figure(histories: Histories) -> Figure:
    """What LED did in training: how often it explored, the entropies of what it drew from, and the depths it chose."""
    figure, (shares, entropies, depths) = new_figure(3, height=3.1)
    shares.set(title="explored share, confidence", xlabel="training step")
    entropies.set(title="entropy per thinking token (nats)", xlabel="training step")
    depths.set(title="depth chosen", xlabel="latent layers in the aggregate")
    _draw_keys(shares, histories, {"led/explored_fraction": "explored", "led/confidence": "confidence (mean)"})
    _draw_keys(entropies, histories, {"led/entropy_mu": "LED draws from", "led/entropy_final": "final layer"})
    if shares.lines:
        shares.set_ylim(0, 1)
        percent_axis(shares)
    _draw_depths(depths, histories)
    return figure


def _draw_runs(axes: Axes, histories: Histories, key: str) -> None:
    """One line per run; runs without the key are named."""
    if not histories:
        say(axes, "no training run was given")
        return
    missing = []
    for index, (run, history) in enumerate(histories.items()):
        steps, values = series(history, key)
        if len(steps):
            draw_series(axes, steps, values, colour(run, index), f"{run}, {len(steps)} steps")
        else:
            missing.append(run)
    _finish(axes, [f"{key} ({', '.join(missing)})"] if missing else [])


def _draw_keys(axes: Axes, histories: Histories, keys: dict[str, str]) -> None:
    """One line per key and run that logged it: the first key in LED's colour, the others grey and dashed."""
    runs = [run for run, history in histories.items() if any(len(series(history, key)[0]) for key in keys)]
    missing = []
    for key, name in keys.items():
        first = key == next(iter(keys))
        found = False
        for run in runs:
            steps, values = series(histories[run], key)
            found |= len(steps) > 0
            if len(steps):
                label = name if len(runs) == 1 else f"{name}, {run}"
                draw_series(axes, steps, values, colour("led" if first else "base"), label, "-" if first else "--")
        if not found:
            missing.append(key)
    _finish(axes, missing)
    if axes.lines:
        axes.legend()


def _finish(axes: Axes, missing: list[str]) -> None:
    """Ticks, or a message; what is missing is named in the message, else in the legend."""
    if not axes.lines:
        say(axes, "not logged:\n" + "\n".join(missing))
        return
    if missing:
        axes.plot([], [], " ", label="not logged: " + ", ".join(missing))
    whole_steps(axes)


def _draw_depths(axes: Axes, histories: Histories) -> None:
    """Mean share of each chosen depth over all steps, of every run that logged depths."""
    runs = {}
    for run, history in histories.items():
        keys = {key for entry in history for key in entry if key.startswith(DEPTH) and key[len(DEPTH) :].isdigit()}
        shares = {int(key[len(DEPTH) :]): series(history, key)[1] for key in keys}
        runs[run] = {depth: values.mean() for depth, values in sorted(shares.items()) if len(values)}
    runs = {run: shares for run, shares in runs.items() if shares}
    if not runs:
        say(axes, f"not logged:\n{DEPTH}0, {DEPTH}1 …")
        return
    width = 0.8 / len(runs)
    for index, (run, shares) in enumerate(runs.items()):
        places = np.array(list(shares)) + (index - (len(runs) - 1) / 2) * width
        axes.bar(places, list(shares.values()), width, color=colour(run, index), label=run)
    if len(runs) > 1:
        axes.legend()
    axes.grid(axis="x", visible=False)
    percent_axis(axes)
    whole_steps(axes)
