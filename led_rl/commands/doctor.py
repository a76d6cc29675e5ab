"""`led-rl doctor`: whether LED will work on this machine, with this model, or on that server."""

import argparse
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from led_rl.benchmarks.acceptance.sections import SECTIONS
from led_rl.commands.arguments import Parser, count, output_folder
from led_rl.decoding import UserError
from led_rl.engines.environment import has_gpu
from led_rl.engines.self_check import (
    Check,
    check_architecture,
    check_decodings,
    check_engine,
    check_markers,
    check_runner,
    one_line,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line a check; returns 1 if any of them failed."""
    parser = Parser("led-rl doctor", description=__doc__)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="checkpoint or hub id: also try LED with it")
    parser.add_argument("--depth", type=int, help="LED depth to try (default 8; 2 or more)")
    parser.add_argument("--compare", action="store_true", help="compare with transformers, however large MODEL is")
    parser.add_argument("--server", metavar="URL", help="ask a running server instead, e.g. http://localhost:8000")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    acceptance = parser.add_argument_group("acceptance", "what LED promises, tried on this machine without a model")
    add = acceptance.add_argument
    add("--acceptance", action="store_true", help="run it: minutes, a page of PASS and FAIL, and one JSON file")
    add("--sections", metavar="A,B", help=f"these alone, in this order: {', '.join(SECTIONS)}")
    add("--seconds", type=count, metavar="N", help="for all of it (600)")
    add("--output", type=Path, metavar="FOLDER", help="of acceptance.json, the page and logs (runs/acceptance)")
    add("--parallel", type=count, metavar="N", help="sections at a time, but for those that measure time")
    options = parser.parse_args(arguments)
    if options.server and (options.model or options.compare):
        parser.error("--server asks a server about the model that it serves: leave MODEL and --compare out")
    if options.depth is not None and options.depth < 2:
        parser.error("argument --depth: expected an integer >= 2; depth 1 reads no latent layer")
    own = {f"--{name}" for name in ("sections", "seconds", "output", "parallel") if getattr(options, name) is not None}
    if not options.acceptance and own:
        parser.error(f"{', '.join(sorted(own))}: only with --acceptance")
    if options.acceptance:
        if options.model or options.server or options.json or options.depth or options.compare:
            parser.error("--acceptance makes its own models: leave MODEL, --depth, --compare, --server and --json out")
        return acceptance_of(options)
    return report(options)


def acceptance_of(options: argparse.Namespace) -> int:
    """Runs the sections that were asked for; returns 1 if any check failed."""
    from led_rl.benchmarks.acceptance.run import accept

    names = list(dict.fromkeys(options.sections.split(","))) if options.sections else list(SECTIONS)
    if unknown := [name for name in names if name not in SECTIONS]:
        raise UserError(f"argument --sections: unknown section {unknown[0]!r}; allowed: {', '.join(SECTIONS)}")
    output = output_folder(options.output or Path("runs/acceptance"))
    cores = len(os.sched_getaffinity(0))
    parallel = options.parallel or (max(1, min(4, cores // 4)) if has_gpu() else 1)
    sections = [SECTIONS[name] for name in names]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that workers are ended, too
    console = Console(width=None if sys.stdout.isatty() else 120)
    return int(accept(sections, output, options.seconds or 600, parallel, console).failed() > 0)


def report(options: argparse.Namespace) -> int:
    """Runs the checks and prints them; whatever libraries print meanwhile goes to stderr."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    found = []
    try:
        with os.fdopen(os.dup(stdout), "w") as output:
            checks = check_server(options.server, options.depth) if options.server else check_machine(options)
            for check in checks:
                found.append(check)
                if not options.json:
                    print(f"{check.status:4}  {check.name:16}  {check.text}", file=output, flush=True)
            failed = sum(check.status == "FAIL" for check in found)
            if options.json:
                print(
                    json.dumps({"ok": not failed, "checks": [asdict(check) for check in found]}, indent=2), file=output
                )
            else:
                tried = options.model or options.server
                good = "LED works" if tried else "nothing is amiss; name a MODEL to try LED with it"
                print(f"{failed} of {len(found)} checks failed" if failed else good, file=output)
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
    return int(failed > 0)


def check_machine(options: argparse.Namespace) -> Iterator[Check]:
    """The installation and, if one is named, the model."""
    # imported here, as a broken torch must not keep --acceptance from reporting it
    from led_rl.engines.installation import check_device, check_environment, check_plugin, check_versions

    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the checks read the engine's sampler
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

    yield from check_versions()
    yield check_plugin()
    yield from check_environment()
    yield check_device()
    try:
        yield check_runner()
    except Exception as error:
        yield Check("model runner", "FAIL", one_line(error))
        return
    yield check_decodings()
    if not options.model:
        return
    depth = options.depth or 8
    try:
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(options.model)
        architecture = check_architecture(config, depth)
        yield architecture
        yield check_markers(AutoTokenizer.from_pretrained(options.model))
    except Exception as error:
        yield Check("model", "FAIL", f"{options.model}: {one_line(error)}")
        return
    if architecture.status != "FAIL":
        try:
            yield from check_engine(options.model, depth, options.compare)
        except Exception as error:
            yield Check("engine", "FAIL", one_line(error))


def check_server(url: str, depth: int | None) -> Iterator[Check]:
    """A server by its HTTP interface alone: refusals, a LED completion of a few tokens, counters."""

    url = url.rstrip("/").removesuffix("/v1")
    status, answer = ask(f"{url}/v1/models")
    if status != 200:
        yield Check("server", "FAIL", f"{url}/v1/models: {answer if status is None else f'HTTP {status}'}")
        return
    model = json.loads(answer)["data"][0]["id"]
    yield Check("server", "ok", f"{url} serves {model}")

    request: dict[str, Any] = {"model": model, "prompt": "1 + 1 =", "max_tokens": 4, "temperature": 1.0}
    wrong = request | {"vllm_xargs": {"led": 1, "led_depht": 4}}
    status, answer = ask(f"{url}/v1/completions", wrong)
    if status == 400 and "led_depht" in answer:
        yield Check("wrong requests", "ok", "HTTP 400, and the error names the key")
    else:
        text = f"a misspelt key (led_depht) got HTTP {status}: does the server load the plugin? {answer[:160]}"
        yield Check("wrong requests", "FAIL", text)

    asked = {"led": 1, "led_depth": depth or 1, "led_think_only": 0}
    status, answer = ask(f"{url}/v1/completions", request | {"vllm_xargs": asked})
    statistics = (json.loads(answer).get("kv_transfer_params") or {}).get("led") if status == 200 else None
    if statistics:
        yield Check("LED request", "ok", ", ".join(f"{name} {value}" for name, value in statistics.items()))
    else:
        yield Check("LED request", "FAIL", f"HTTP {status}: {answer[:300]}")

    status, answer = ask(f"{url}/metrics")
    lines = [line.split() for line in answer.splitlines() if line.startswith("led_rl:")]
    values = {name: float(value) for name, value in lines if "{" not in name}
    rows = values.get("led_rl:rows_total", 0.0)
    if not rows:
        yield Check("metrics", "FAIL", f"no led_rl: counters at {url}/metrics")
        return
    requests, explored = values["led_rl:requests_total"], values["led_rl:explored_total"] / rows
    confidence = values["led_rl:confidence_total"] / rows
    text = f"{requests:.0f} sequences, {rows:.0f} rows, explored {explored:.1%}, confidence {confidence:.3f}"
    yield Check("metrics", "ok", text)


def ask(url: str, body: dict[str, Any] | None = None) -> tuple[int | None, str]:
    """HTTP status and text of a GET, or of a POST of JSON; no status if nobody answers."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("VLLM_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    try:
        request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        return None, str(error)
