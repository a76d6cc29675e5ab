import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from led_rl.decoding import UserError
from led_rl.study.jobs import Job
from led_rl.study.ledger import open_ledger, read_attempts
from led_rl.study.running import Runner, duration, expected


def job(name, code, kind="train", seconds=1.0):
    return Job(name, kind, (sys.executable, "-c", code), seconds)


def touching(path, then="pass"):
    return f"open({str(path)!r}, 'a').write('x'); {then}"


def run(folder, chains, at_once=2):
    said = []
    with open_ledger(folder) as ledger:
        Runner(ledger, at_once, sum(map(len, chains)), said.append).run(chains)
    return said


def test_jobs_of_a_chain_run_in_order_and_once(tmp_path):
    seen = tmp_path / "seen"
    chain = [job(name, f"open({str(seen)!r}, 'a').write({name!r})") for name in "abc"]
    said = run(tmp_path / "out", [chain])
    assert seen.read_text() == "abc"
    assert "[3/3] c" in said[-1]
    run(tmp_path / "out", [chain])
    assert seen.read_text() == "abc"
    assert [(row["job"], row["status"]) for row in read_attempts(tmp_path / "out")] == [(x, 0) for x in "abc"]


def test_a_failure_is_one_line_stops_its_own_chain_and_is_tried_again(tmp_path):
    mended = tmp_path / "mended"
    code = f"import os, sys; os.path.exists({str(mended)!r}) or sys.exit('error: the disk is full')"
    chains = [[job("a", code), job("b", "pass")], [job("c", "pass")]]
    with pytest.raises(UserError, match=r"^a failed with status 1; .*a\.log ends: error: the disk is full$"):
        run(tmp_path / "out", chains, at_once=1)
    mended.touch()
    run(tmp_path / "out", chains)
    tried = [(row["job"], row["status"]) for row in read_attempts(tmp_path / "out")]
    assert tried == [("a", 1), ("c", 0), ("a", 0), ("b", 0)]  # c did not need a, and b did


def test_jobs_do_not_share_the_port_of_a_config_that_was_checked_here(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "12345")
    monkeypatch.setenv("RANK", "0")
    run(tmp_path, [[job("a", "import os; assert not {'MASTER_PORT', 'RANK'} & {*os.environ}")]])


def test_a_job_with_other_settings_is_refused(tmp_path):
    run(tmp_path, [[job("a", "pass")]])
    with pytest.raises(UserError, match="'a' was run with other settings"):
        run(tmp_path, [[job("a", "pass; pass")]])


def test_a_second_study_in_the_same_folder_is_refused(tmp_path):
    with open_ledger(tmp_path), pytest.raises(UserError, match="being written by another study"):
        run(tmp_path, [])


def test_sigterm_ends_the_jobs_and_a_second_start_goes_on(tmp_path):
    """The study's process alone is signalled; its job saves and ends."""
    script = tmp_path / "study.py"
    saving = "import signal, sys, time; signal.signal(15, lambda *_: (open('saved', 'w'), sys.exit(143))); "
    saving += "open('started', 'w'); time.sleep(0 if __import__('os').path.exists('saved') else 600)"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            from led_rl.study.jobs import Job
            from led_rl.study.ledger import open_ledger
            from led_rl.study.running import Runner
            jobs = [Job("a", "train", (sys.executable, "-c", {saving!r}), 1.0), Job("b", "train", ("true",), 1.0)]
            with open_ledger(Path("out")) as ledger:
                Runner(ledger, 1, 2).run([jobs])
            """
        )
    )
    process = subprocess.Popen([sys.executable, script], cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert (tmp_path / "saved").exists()
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True, timeout=120)
    assert [(row["job"], row["status"]) for row in read_attempts(tmp_path / "out")] == [("a", 143), ("a", 0), ("b", 0)]


def test_expected_times_follow_what_was_measured():
    ended = {"kind": "train", "status": 0, "seconds": 30.0, "expected": 10.0}
    jobs = [job("a", "", "train", 20.0), job("b", "", "evaluate", 5.0)]
    assert expected(jobs, []) == 25.0
    assert expected(jobs, [ended]) == 65.0
    assert [duration(s) for s in (12, 90, 7500)] == ["12 s", "2 min", "2 h 05 min"]


@pytest.mark.parametrize("line", ["5", "[]", '{"job": "a"}'])
def test_a_ledger_of_something_else_is_refused(tmp_path, line):
    (tmp_path / "jobs.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"jobs\.jsonl, line 1: expected an attempt at a job"):
        read_attempts(tmp_path)


def test_a_line_cut_off_within_a_character_is_left_out(tmp_path):
    run(tmp_path, [[job("a", "pass")]])
    with (tmp_path / "jobs.jsonl").open("ab") as file:
        file.write('{"job": "é'.encode()[:-1])
    assert [row["job"] for row in read_attempts(tmp_path)] == ["a"]
