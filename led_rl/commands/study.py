"""`led-rl study`: runs what a study's recipe lacks, and writes the page of evidence from what was recorded."""

import argparse
import functools
import itertools
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from led_rl.commands.arguments import Parser, count
from led_rl.decoding import UserError
from led_rl.study import KINDS


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the process's exit code.

    Raises:
        UserError: names the recipe, the key and what is allowed; or the job that failed and its log.
    """
    options = _parse(argv)
    from led_rl.study.loading import load_study
    from led_rl.study.page import write_page
    from led_rl.study.recipe import Study
    from led_rl.study.results import results, write_results
    from led_rl.study.run import announce, run_study
    from led_rl.study.running import JobError

    runs_here = not (options.plan or options.page_only)
    studies = [
        load_study(path, smoke=options.smoke, output=_output(options, path), runs_here=runs_here)
        for path in options.recipes
    ]
    for what in ("name", "output"):
        if len({getattr(study, what) for study in studies}) < len(studies):
            raise UserError(f"two recipes have the same {what}: {', '.join(str(study.path) for study in studies)}")
    for study, other in itertools.combinations(studies, 2):
        if study.recipe.base == other.recipe.base and study.recipe.warmup != other.recipe.warmup:
            raise UserError(f"{study.path} and {other.path}: base {study.recipe.base!r} is made in two ways (`warmup`)")
    command = "led-rl study " + shlex.join([*map(str, options.recipes), *(["--smoke"] if options.smoke else [])])
    shown = [*(["--smoke"] if options.smoke else []), *options.where]
    if options.page_only:
        write_page(options.page, options.results, studies, shown)
    else:
        print(announce(studies, options.at_once, options.only), flush=True)
        if options.plan:
            return 0

        def record(study: Study) -> None:
            found = results(study, command, smoke=options.smoke)
            if (options.results / f"{study.name}.json").exists() and not (found["cells"] or found["layers"]):
                print(f"{study.name}: nothing has been measured yet; {options.results} keeps what it holds")
            else:
                write_results(options.results, found)
            write_page(options.page, options.results, studies, shown)

        failures = []
        for study in studies:
            try:
                run_study(study, options.at_once, options.only, functools.partial(print, flush=True))
            except UserError as error:
                failures.append(str(error))
            except KeyboardInterrupt:
                record(study)
                raise
            record(study)
        if failures:
            raise JobError("; ".join(failures))
    print(f"{options.page}, from {options.results}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "led-rl study",
        description="Trains, evaluates and analyses what the recipes of studies ask for, each job once, and writes a "
        "page with figures, intervals and verdicts. Started again, it goes on.",
    )
    add = parser.add_argument
    add("recipes", nargs="+", metavar="RECIPE.yaml", help="recipes/study_*.yaml, or of your own")
    add("--at-once", type=count, default=os.cpu_count() or 1, help="jobs at a time (%(default)s, one a core)")
    add("--plan", action="store_true", help="say what is left to run and how long it takes, and stop")
    add(
        "--only",
        nargs="+",
        choices=KINDS,
        default=KINDS,
        metavar="KIND",
        help=f"run jobs of these kinds: {', '.join(KINDS)}",
    )
    add("--page-only", action="store_true", help="write the page from the recorded results, and run nothing")
    add("--smoke", action="store_true", help="the smallest size that a recipe names, to try the whole path")
    add("--output", type=Path, help="folder of the runs (default: each recipe's own)")
    add("--page", type=Path, help="the page (docs/evidence.md; with --smoke runs/study/smoke/evidence.md)")
    add("--results", type=Path, help="folder of the recorded results (default: beside the page, by its name)")
    options = parser.parse_args(argv)
    given = {"--page": options.page, "--results": options.results}
    options.where = [word for key, value in given.items() if value is not None for word in (key, str(value))]
    if options.page is None:
        options.page = Path("runs/study/smoke/evidence.md" if options.smoke else "docs/evidence.md")
    if not options.page.suffix or options.page.is_dir():
        parser.error(f"argument --page: expected a file such as evidence.md, got '{options.page}'")
    if options.results is None:
        options.results = options.page.with_suffix("")
    elif options.page_only and not options.results.is_dir():
        parser.error(f"argument --results: there is no folder '{options.results}'")
    if options.plan and options.page_only:
        parser.error("argument --plan: not allowed with argument --page-only")
    if not options.plan:
        _check_writable(options)
    return options


def _check_writable(options: argparse.Namespace) -> None:
    """The page and the results can be written, before jobs run for hours."""
    try:
        for folder in (options.page.parent, options.results):
            folder.mkdir(parents=True, exist_ok=True)
        there = options.page.exists()
        options.page.open("a").close()
        if not there:
            options.page.unlink()
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written: {error.strerror}") from error


def _output(options: argparse.Namespace, path: str) -> str | None:
    if options.output is None:
        return "runs/study/smoke/" + Path(path).stem.removeprefix("study_") if options.smoke else None
    return str(options.output if len(options.recipes) == 1 else options.output / Path(path).stem)
