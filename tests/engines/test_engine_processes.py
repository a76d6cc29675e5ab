"""Engines in processes of their own: they share requests, tell what went wrong, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from led_rl.decoding import DecodingParams, UserError
from led_rl.engines.engine import Completion, EngineError, Request, Sampling, stream
from led_rl.engines.engine_processes import EngineProcesses, device_shares


class Counting:
    """Completes a request with its seed, the number of its weights and its process, after as many steps as asked."""

    capacity = 3

    def __init__(self, fail=None):
        if fail == "user":
            raise UserError("there is no such model")
        self.waiting, self.weights, self.fail = {}, 0, fail

    def add(self, index, request):
        if self.fail == "bug" and request.sampling.seed == 5:
            raise ZeroDivisionError("a bug")
        if self.fail == "death" and request.sampling.seed == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        self.waiting[index] = [request.sampling.max_tokens, request.sampling.seed]

    def step(self):
        time.sleep(0.002)
        finished = []
        for index, entry in list(self.waiting.items()):
            entry[0] -= 1
            if not entry[0]:
                del self.waiting[index]
                finished.append((index, Completion([entry[1], self.weights, os.getpid()], [], [], True)))
        return finished

    def load_weights(self, checkpoint):
        self.weights = int(checkpoint)

    def close(self):
        pass


def requests(n):
    return [Request([1], DecodingParams(), Sampling(max_tokens=1 + i % 4, seed=i)) for i in range(n)]


def run(engine, n):
    return {index: completion.token_ids for index, completion in stream(engine, requests(n))}


@pytest.mark.parametrize("count", [1, 2])
def test_every_request_is_answered_once(count):
    engine = EngineProcesses(Counting, count)
    try:
        assert engine.capacity == 3 * count
        first = run(engine, 40)
        assert {index: tokens[:2] for index, tokens in first.items()} == {i: [i, 0] for i in range(40)}
        workers = {tokens[2] for tokens in first.values()}
        assert len(workers) == count
        assert os.getpid() not in workers
        engine.load_weights("7")
        assert {tokens[1] for tokens in run(engine, 10).values()} == {7}
    finally:
        engine.close()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_what_a_user_did_wrong_arrives_as_it_was_raised():
    with pytest.raises(UserError, match=r"^there is no such model$"):
        EngineProcesses(partial(Counting, "user"))


def test_a_bug_and_a_death_are_one_line_each():
    engine = EngineProcesses(partial(Counting, "bug"))
    with pytest.raises(EngineError, match=r"^the engine failed: ZeroDivisionError: a bug"):
        run(engine, 10)
    engine.close()
    engine = EngineProcesses(partial(Counting, "death"), 2)
    with pytest.raises(EngineError, match=r"^the process of engine \d ended \(signal SIGKILL\)"):
        run(engine, 10)
    engine.close()


def test_engines_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        f"import sys; sys.path.append({os.path.dirname(__file__)!r})\n"
        "from test_engine_processes import *\n"
        "if __name__ == '__main__':\n"
        "    engine = EngineProcesses(Counting, 2)\n"
        "    engine.add(0, Request([1], DecodingParams(), Sampling(max_tokens=10**9)))\n"
        "    print(*[w.process.pid for w in engine._workers], flush=True)\n"
        "    time.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_engine_gets_gpus_of_its_own(monkeypatch):
    monkeypatch.setattr("led_rl.engines.environment.has_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert device_shares(2, 2) == ["4,5", "6,7"]
    assert device_shares(1, 4) == [None]
    with pytest.raises(EngineError, match="3 engines of 2 GPUs each need 6 GPUs, and 4 are visible"):
        device_shares(3, 2)
    monkeypatch.setattr("led_rl.engines.environment.has_gpu", lambda: False)
    assert device_shares(2, 1) == [None, None]
