"""The pool under everything that can happen to it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from rewards.grader.workers.pool import LOST_PER_GOLD, PoolError, WorkerPool, default_workers, shared_pool

# A worker that obeys: it sleeps, dies, eats memory or answers, as its jobs say.
OBEDIENT = textwrap.dedent("""
    import json, os, sys, time
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if "sleep" in job: time.sleep(job["sleep"])
        if "die" in job: os._exit(3)
        if "spin" in job:
            while True: pass
        print(json.dumps({"said": job.get("say"), "pid": os.getpid()}), flush=True)
""")
COMMAND = [sys.executable, "-c", OBEDIENT]


@pytest.fixture
def obedient():
    pool = WorkerPool(2, time_limit=0.4, command=COMMAND)
    yield pool
    pool.close()


@pytest.fixture
def grading():
    pool = WorkerPool(1)
    yield pool
    pool.close()


def grade(text, gold="42"):
    return {"op": "grade", "text": text, "gold": gold}


def test_results_keep_the_order_of_the_jobs(obedient):
    assert [result["said"] for result in obedient.run([{"say": n} for n in range(300)])] == list(range(300))
    assert obedient.counters == {"jobs": 300}


def test_workers_persist(obedient):
    pids = {result["pid"] for _ in range(20) for result in obedient.run([{"say": 1}, {"say": 2}])}
    assert len(pids) <= 2


def test_a_crash_costs_its_own_job_only(obedient):
    results = obedient.run([{"say": 0}, {"die": 1}, {"say": 2}, {"die": 1}, {"say": 4}])
    assert [result.get("said", result.get("failure")) for result in results] == [0, "crash", 2, "crash", 4]
    assert obedient.counters["crash"] == 2
    assert obedient.counters["replaced"] == 4  # each was tried twice


def test_the_time_limit_is_hard(obedient):
    start = time.monotonic()
    results = obedient.run([{"spin": 1}, {"say": 1}, {"say": 2}])
    assert results[0] == {"failure": "time limit"}
    assert [result["said"] for result in results[1:]] == [1, 2]
    assert time.monotonic() - start < 5


def test_a_sleeping_job_ends_too(obedient):
    start = time.monotonic()
    assert obedient.run([{"sleep": 60}]) == [{"failure": "time limit"}]
    assert time.monotonic() - start < 5


def test_a_worker_that_died_idle_costs_nothing(obedient):
    victim = obedient.run([{"say": 1}])[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    assert [result["said"] for result in obedient.run([{"say": n} for n in range(10)])] == list(range(10))


def test_threads_share_the_pool(obedient):
    seen: dict[int, list[int]] = {}

    def work(number):
        seen[number] = [result["said"] for result in obedient.run([{"say": number * 100 + n} for n in range(50)])]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == {number: [number * 100 + n for n in range(50)] for number in range(6)}


@pytest.mark.parametrize("program", ["import sys; sys.exit('no licence')", "print('{}')"])
def test_a_pool_that_cannot_start_is_an_error(program):
    with pytest.raises(PoolError, match="no licence" if "licence" in program else "grading worker"):
        WorkerPool(1, command=[sys.executable, "-c", program])
    with pytest.raises(PoolError):
        WorkerPool(1, command=["/nonexistent/program"])


def test_workers_that_can_no_longer_start_are_an_error(tmp_path):
    flag = tmp_path / "started"
    program = (
        f"import os, sys\nif os.path.exists({str(flag)!r}): sys.exit('gone')\nopen({str(flag)!r}, 'w')\n" + OBEDIENT
    )
    pool = WorkerPool(1, time_limit=0.4, command=[sys.executable, "-c", program])
    with pytest.raises(PoolError, match="gone"):
        pool.run([{"die": 1}, {"say": 1}])


def test_a_closed_pool_refuses(obedient):
    obedient.close()
    with pytest.raises(PoolError):
        obedient.run([{"say": 1}])


def test_the_memory_cap_holds(grading):
    hog = "import rewards.grader.workers.child as w; w._do = lambda job: {'size': len(bytearray(job['bytes']))}; w.main"
    program = f"import sys, os; {hog}; os._exit(w.main(sys.argv[1:]))"
    pool = WorkerPool(1, memory_limit=1 << 28, command=[sys.executable, "-c", program, str(1 << 28), "5"])
    try:
        assert pool.run([{"bytes": 1000}, {"bytes": 1 << 29}, {"bytes": 10}]) == [
            {"size": 1000},
            {"failure": "memory limit"},
            {"size": 10},
        ]
        assert pool.counters["memory limit"] == 1
    finally:
        pool.close()


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    program = textwrap.dedent("""
        import os, sys, time
        from rewards.grader.workers.pool import LOST_PER_GOLD, WorkerPool
        pool = WorkerPool(2, time_limit=0.3)
        print(*[worker.process.pid for worker in pool._alive], flush=True)
        time.sleep(60)
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_running(pid) for pid in pids):
        time.sleep(0.05)
    assert len(pids) == 2
    assert not any(_running(pid) for pid in pids)


def _running(pid):
    try:
        with open(f"/proc/{pid}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _in_child(queue):
    pool = shared_pool(1)
    queue.put((pool.run([grade(r"\boxed{42}")])[0]["correct"], [worker.process.pid for worker in pool._alive]))


def test_a_forked_child_has_its_own_workers():
    own = shared_pool(1)
    assert own.run([grade(r"\boxed{42}")])[0]["correct"] is True
    queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(queue,))
    child.start()
    correct, pids = queue.get(timeout=60)
    child.join(60)
    assert correct is True
    assert not set(pids) & {worker.process.pid for worker in own._alive}
    assert own.run([grade(r"\boxed{42}")])[0]["correct"] is True


def test_an_unguarded_main_is_not_run_again(tmp_path):
    script = tmp_path / "train_like.py"
    script.write_text(
        "print('once', flush=True)\n"
        "from rewards import load_reward\n"
        "print(load_reward('math_answer', workers=1)(['\\\\boxed{1}'], answer=['1']))\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split("\n")[:2] == ["once", "[1.0]"]


def test_several_ranks_divide_the_processors(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = default_workers()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert default_workers() == 1 <= alone <= 8


def test_jobs_travel_as_plain_json(grading):
    strange = "\ud800 \x00 \u2028 \n é 𝟘"
    assert grading.run([grade(strange), grade(r"\boxed{42}")])[1]["correct"] is True
    json.dumps(grading.run([grade(strange)]))


def test_hostile_answers_cost_a_batch_little_and_one_warning(caplog):
    """After a few losses the rest of the batch is judged without the library; what is written alike counts."""
    gold = r"\int_0^1 x^2\,dx"
    hostile = [r"\boxed{\int_0^1 x^{x^{x^x}}\,dx}"] * 40 + [r"\boxed{\int_0^1 x^2 dx}"]
    pool = WorkerPool(1)
    try:
        results = pool.run([{"op": "grade", "text": text, "gold": gold} for text in hostile])
    finally:
        pool.close()
    assert [result.get("correct", False) for result in results] == [False] * 40 + [True]
    assert 1 <= pool.counters["time limit"] <= LOST_PER_GOLD
    assert [record.getMessage().split(";")[1] for record in caplog.records] == [" they earn 0"]
