"""A study from start to end: warm-up, then every run's training and evaluation, the layers, and the confirmation."""

from collections.abc import Callable, Sequence

from led_rl.study import KINDS
from led_rl.study.cells import Cells, recorded_figures
from led_rl.study.claims import choose
from led_rl.study.jobs import Job, analyse, chains, warm_up, write_problems
from led_rl.study.ledger import open_ledger, read_attempts, was_run
from led_rl.study.recipe import BASE, CHOSEN, Study
from led_rl.study.running import Runner, duration, expected


def run_study(study: Study, at_once: int, only: Sequence[str] = KINDS, say: Callable[[str], object] = print) -> None:
    """Runs every job that is missing, or those of some kinds.

    Raises:
        JobError: jobs failed.
        UserError: a job was run with other settings, or the problems are too few.
    """
    recipe = study.recipe
    with open_ledger(study.output) as ledger:
        runner = Runner(ledger, at_once, len(all_jobs(study)), say, only)
        runner.run([warm_up(study)])
        write_problems(study)
        seeds = recipe.train.seeds if recipe.train else []
        runner.run(chains(study, [(arm, seed) for seed in seeds for arm in study.training_arms], recipe.problems.rows))
        if recipe.analyse:
            runner.run([[analyse(study)]])
        if set(only) == set(KINDS):
            _confirm(study, runner)


def _confirm(study: Study, runner: Runner) -> None:
    """Fresh seeds and fresh problems for the cell that looked best, and for those it is compared with."""
    how = study.recipe.confirm
    if how is None:
        return
    chosen = _chosen(study)
    assert chosen is not None  # everything has been run
    runner.run(_confirming(study, chosen))


def _chosen(study: Study) -> str | None:
    """The cell that a screening chose; None before it has ended."""
    how = study.recipe.confirm
    assert how is not None
    recorded_figures.cache_clear()
    seeds = study.recipe.train.seeds if study.recipe.train else [0]
    return choose(how.among, how.figure, Cells(study, study.recipe.problems.rows, seeds))


def _confirming(study: Study, chosen: str) -> list[list[Job]]:
    how = study.recipe.confirm
    assert how is not None
    named = [cell for claim in how.claims for cell in (claim.first, claim.second) if cell is not None]
    cells = list(dict.fromkeys(chosen if cell == CHOSEN else cell for cell in named))
    arms = [arm for arm in dict.fromkeys(cell.partition("/")[0] for cell in cells) if arm != BASE]
    return chains(study, [(arm, seed) for seed in how.seeds for arm in arms], how.rows, cells)


def all_jobs(study: Study) -> list[Job]:
    """Every job of a study; before a screening has ended, its first candidate stands for the one to be chosen."""
    recipe = study.recipe
    seeds = recipe.train.seeds if recipe.train else []
    runs = [(arm, seed) for seed in seeds for arm in study.training_arms]
    parts = [warm_up(study), *chains(study, runs, recipe.problems.rows)]
    if recipe.analyse:
        parts.append([analyse(study)])
    if recipe.confirm:
        parts += _confirming(study, _chosen(study) or recipe.confirm.among[0])
    return [job for part in parts for job in part]


def announce(studies: Sequence[Study], at_once: int, only: Sequence[str] = KINDS) -> str:
    """What is left of each study, of jobs of some kinds, and how long it takes, before anything starts.

    Raises:
        UserError: a job was run with other settings.
    """
    lines, total, unknown, warmed = [], 0.0, 0, set()
    for study in studies:
        attempts = read_attempts(study.output)
        jobs = [job for job in all_jobs(study) if not was_run(study.output, attempts, job) and job.kind in only]
        if study.recipe.base in warmed:
            jobs = [job for job in jobs if job.kind != "warm-up"]
        warmed.add(study.recipe.base)
        alone = expected([job for job in jobs if job.kind in ("warm-up", "analyse")], attempts)
        seconds = alone + expected([job for job in jobs if job.kind in ("train", "evaluate")], attempts) / at_once
        total += seconds
        counted = ", ".join(
            f"{sum(job.kind == kind for job in jobs)} x {kind}" for kind in dict.fromkeys(job.kind for job in jobs)
        )
        machine = study.recipe.budget.machine
        known = not jobs or seconds > 0
        unknown += not known
        takes = f"about {duration(seconds)} with {at_once} at once" if known else "for a time that nobody has measured"
        lines.append(f"{study.name}: {counted or 'nothing'} to run, {takes}")
        lines.append(f"    ({'measured on' if known else 'for'} {machine}); runs: {study.output}")
        if study.recipe.unproven:
            lines.append(f"    unproven: {study.recipe.unproven}")
    if len(studies) > 1:
        without = f", without {unknown} of unknown time" if unknown else ""
        lines.append(f"together about {duration(total)}{without}; stop it whenever you like: started again, it goes on")
    return "\n".join(lines)
