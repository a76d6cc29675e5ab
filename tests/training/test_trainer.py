"""What real training steps did, on real vLLM: weights, log-probabilities, importance ratios, metrics, resuming.

The trainers run in processes of their own (probes/trainer_probe.py); here their facts are held against transformers.
"""

import sys
from functools import cache

import pytest
import torch
from conftest import save_tiny_model
from engine_weights import fused
from subprocesses import ROOT, run_command

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.transformers_engine import TransformersEngine, standard_policy
from led_rl.led import entropy
from led_rl.training.supported_loss import GAUGED

LED = DecodingParams("led")
SAMPLING = Sampling(temperature=0.9, top_p=0.9, top_k=20, min_p=0.01)
STEPS = range(4)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """`probe(job)`: the facts of one process, run once; the second job resumes from the first one's checkpoint."""
    folder = tmp_path_factory.mktemp("trainer")
    model = save_tiny_model(folder / "model", seed=2)

    @cache
    def facts(job):
        if job == "resume":
            facts("train")
        run_command(sys.executable, ROOT / "tests" / "probes" / "trainer_probe.py", job, model, folder)
        return torch.load(folder / f"{job}.pt", weights_only=False)

    return facts


@pytest.fixture(scope="module")
def trained(probe):
    return probe("train")


@pytest.fixture(scope="module")
def oracle_of(trained, probe, tmp_path_factory):
    """`oracle_of(weights)`: a transformers engine with the given parameters."""
    engine = TransformersEngine(str(save_tiny_model(tmp_path_factory.mktemp("oracle"), seed=2)))

    def with_weights(weights):
        engine.model.load_state_dict(weights)
        return engine

    return with_weights


def judge(oracle, prompt, completion):
    """Per completion token: log-probability under the behaviour policy and the policy, phase, and LED's quantities.

    The behaviour policy is mu while thinking, standard sampling after; the policy is softmax(logits / T) over the
    support of the behaviour policy, of which `mass` is the whole policy's.
    """
    thinking = torch.tensor(oracle.markers(LED).thinking_mask(prompt, completion))
    led, posteriors = oracle.distributions(prompt + completion[:-1], LED, SAMPLING.temperature)
    rows = slice(len(prompt) - 1, None)
    final = posteriors[rows, 0]  # (tokens, vocab)
    with torch.no_grad():
        logits = oracle.model(torch.tensor([prompt + completion[:-1]])).logits[0, rows]
    mu = torch.zeros_like(final).scatter_(-1, led.candidates[rows], led.mu[rows])
    behaviour = torch.where(thinking[:, None], mu, standard_policy(logits, SAMPLING))
    tokens = torch.tensor(completion)[:, None]
    mass = (final * (behaviour > 0)).sum(-1)
    return {
        "behaviour": behaviour.gather(-1, tokens)[:, 0].log(),
        "policy": (final.gather(-1, tokens)[:, 0] / mass).log(),
        "support": behaviour > 0,
        "mass": mass,
        "thinking": thinking,
        "confidence": led.confidence[rows],
        "entropy_mu": entropy(led.mu[rows]),
        "entropy_final": entropy(final),
        "depth": led.depth[rows],
    }


def judged_steps(oracle_of, steps):
    """For each step, (rows of the batch, what the oracle with the weights before that step says of each)."""
    for step in steps:
        oracle = oracle_of(step["weights"])
        rows = []
        for i in range(len(step["prompt_ids"])):
            prompt = step["prompt_ids"][i][step["prompt_mask"][i].bool()].tolist()
            completion = step["completion_ids"][i][step["completion_mask"][i].bool()].tolist()
            rows.append(judge(oracle, prompt, completion))
        yield step, rows


@pytest.fixture(scope="module")
def judged(trained, oracle_of):
    return list(judged_steps(oracle_of, trained["steps"]))


def largest_change(before: dict, after: dict) -> dict:
    return {name: (after[name] - before[name]).abs().max().item() for name in before}


def test_the_engine_holds_the_trainer_s_weights_after_a_step(trained):
    expected, engine = fused(trained["parameters"]), trained["engine"]
    assert set(expected) == set(engine)
    for name, parameter in expected.items():
        rows = engine[name][: len(parameter)]  # vLLM pads the vocabulary
        torch.testing.assert_close(rows, parameter, atol=0, rtol=0, msg=name)


def test_the_weights_have_really_moved(trained):
    changes = largest_change(trained["steps"][0]["weights"], trained["parameters"])
    assert len(changes) > 100
    assert min(changes.values()) > 1e-4, min(changes.items(), key=lambda item: item[1])


def test_the_engine_s_log_probabilities_are_the_oracle_s_after_a_step(trained, oracle_of):
    rollout = trained["rollout"]
    apart = 0.0
    thought = 0
    for new in (True, False):
        oracle = oracle_of(trained["parameters"] if new else trained["steps"][0]["weights"])
        for prompt, completion, logprobs in zip(*rollout.values(), strict=True):
            expected = judge(oracle, prompt, completion)
            thought += int(expected["thinking"].sum())
            if new:
                torch.testing.assert_close(torch.tensor(logprobs), expected["behaviour"], atol=1e-5, rtol=5e-6)
            else:
                apart = max(apart, (torch.tensor(logprobs) - expected["behaviour"]).abs().max().item())
    assert apart > 0.1  # the old weights would have been noticed
    assert 0 < thought < 2 * sum(map(len, rollout["completion_ids"]))  # both phases occur


def test_what_reaches_the_loss_is_log_mu_of_the_weights_before_the_step(judged):
    assert len(judged) == len(STEPS)
    counts = torch.zeros(2)
    for step, rows in judged:
        for i, expected in enumerate(rows):
            found = step["sampling_per_token_logps"][i][step["completion_mask"][i].bool()]
            torch.testing.assert_close(found, expected["behaviour"], atol=1e-5, rtol=5e-6)
            counts += torch.tensor([expected["thinking"].sum(), (~expected["thinking"]).sum()])
    assert counts.min() > 200  # tokens of both phases


def test_importance_ratios_are_truncated_token_by_token(judged):
    clipped = 0
    for step, rows in judged:
        assert step["importance_sampling_ratio"].shape == step["completion_ids"].shape
        for i, expected in enumerate(rows):
            mask = step["completion_mask"][i].bool()
            ratio = (expected["policy"] - expected["behaviour"]).exp()
            clipped += int((ratio > 1).sum())
            torch.testing.assert_close(
                step["importance_sampling_ratio"][i][mask], ratio.clamp(max=1.0), atol=5e-5, rtol=0
            )
            torch.testing.assert_close(step["old_per_token_logps"][i][mask], expected["policy"], atol=1e-5, rtol=0)
    assert clipped > 20


def test_the_loss_gets_the_support_of_every_token(judged):
    at_the_edge = 0
    for step, rows in judged:
        for i, expected in enumerate(rows):
            mask = step["completion_mask"][i].bool()
            found = torch.zeros_like(expected["support"])
            for token, ids in enumerate(step["support_ids"][i][mask].tolist()):
                found[token, [one for one in ids if one >= 0]] = True
            at_the_edge += int((found != expected["support"]).any(-1).sum())
            assert (step["support_ids"][i][~mask] == -1).all()
            led = step["support_explored"][i][mask] >= 0
            assert torch.equal(led, expected["thinking"])
    assert at_the_edge <= 2  # an id whose probability is the truncation's own may fall on either side


def test_the_support_s_mass_is_logged(trained, judged):
    logs = [entry for entry in trained["log_history"] if "reward" in entry]
    for entry, (_, rows) in zip(logs, judged, strict=True):
        mass = torch.cat([row["mass"] for row in rows])
        gauged = mass[torch.linspace(0, len(mass) - 1, min(GAUGED, len(mass))).long()]
        assert entry["led/support_mass"] == pytest.approx(gauged.mean().item(), abs=1e-4)


def test_ratios_are_logged_by_class_of_token(trained, judged):
    logs = [entry for entry in trained["log_history"] if "reward" in entry]
    for entry, (_, rows) in zip(logs, judged, strict=True):
        thinking = torch.cat([row["thinking"] for row in rows])
        ratio = torch.cat([(row["policy"] - row["behaviour"]).exp() for row in rows])
        explored = 1 - torch.cat([row["confidence"] for row in rows])
        answer, share = ratio[~thinking], explored[thinking]
        assert entry["correction/answer/ratio_mean"] == pytest.approx(answer.mean().item(), abs=1e-4)
        assert entry["correction/answer/ratio_max"] == pytest.approx(answer.max().item(), abs=1e-4)
        expected = (ratio[thinking] * share).sum() / share.sum()
        assert entry["correction/explored/ratio_mean"] == pytest.approx(expected.item(), abs=1e-3)


def test_the_ratio_weighs_every_token_of_the_loss(judged):
    for step, _ in judged:
        weighted = step["importance_sampling_ratio"] * step["advantages"][:, None] * step["completion_mask"]
        torch.testing.assert_close(step["loss"], -weighted.sum() / step["completion_mask"].sum(), atol=1e-5, rtol=0)


def test_every_step_logs_what_the_rollout_was(trained, judged):
    logs = [entry for entry in trained["log_history"] if "reward" in entry]
    assert [entry["step"] for entry in logs] == [1, 2, 3, 4]
    for entry, (step, rows) in zip(logs, judged, strict=True):
        thinking = torch.cat([row["thinking"] for row in rows])
        mean = {
            name: torch.cat([row[name] for row in rows])[thinking].mean().item()
            for name in ("confidence", "entropy_mu", "entropy_final")
        }
        depths = torch.cat([row["depth"] for row in rows])[thinking].bincount(minlength=8) / thinking.sum()
        count = len(rows)
        expected = {
            "rollout/total_length": len(thinking) / count,
            "rollout/thinking_length": thinking.sum().item() / count,
            "rollout/answer_length": (~thinking).sum().item() / count,
            "led/confidence": mean["confidence"],
            "led/explored_fraction": 1 - mean["confidence"],
            "led/entropy_mu": mean["entropy_mu"],
            "led/entropy_final": mean["entropy_final"],
            **{f"led/depth_{j}": share.item() for j, share in enumerate(depths)},
        }
        assert {name: entry[name] for name in expected} == pytest.approx(expected, abs=1e-4)
        assert sum(entry[f"led/depth_{j}"] for j in range(8)) == pytest.approx(1.0, abs=1e-6)
        assert entry["led/entropy_mu"] <= torch.tensor(8.0).log()
        assert entry["rollout/total_length"] == pytest.approx(entry["completions/mean_length"], abs=1e-4)
        assert step["completion_mask"].sum() == len(thinking)


def test_every_step_logs_where_its_time_went(trained, judged):
    logs = [entry for entry in trained["log_history"] if "reward" in entry]
    for entry, (step, _) in zip(logs, judged, strict=True):
        times = {name: entry[f"time/{name}"] for name in ("rollout", "reward", "weight_sync", "training")}
        assert min(times.values()) > 0
        # the clock runs from the step's begin to its end; TRL's leaves the optimizer out
        assert entry["step_time"] <= sum(times.values()) + 0.01
        assert sum(times.values()) < 2 * entry["step_time"] + 1
        tokens = step["completion_mask"].sum().item()
        assert entry["rollout/tokens_per_second"] == pytest.approx(tokens / times["rollout"], rel=1e-3)


def comparable(log_history) -> list[dict]:
    """Logged steps without what a clock measured."""
    timed = ("time/", "step_time", "rollout/tokens_per_second", "train_", "profiling/")
    return [
        {name: value for name, value in entry.items() if not name.startswith(timed)}
        for entry in log_history
        if "reward" in entry
    ]


def test_a_resumed_run_is_the_run_that_never_stopped(trained, probe):
    resumed = probe("resume")["resumed"]
    assert len(resumed["steps"]) == 2  # it did not start over
    assert comparable(resumed["log_history"]) == comparable(trained["log_history"])
    for name, parameter in trained["parameters"].items():
        assert torch.equal(resumed["parameters"][name], parameter), name


def test_with_standard_decoding_the_trainer_is_trl_s(probe):
    ours, theirs = probe("resume")["ours"], probe("resume")["theirs"]
    for our_step, their_step in zip(ours["steps"], theirs["steps"], strict=True):
        assert torch.equal(our_step["completion_ids"], their_step["completion_ids"])
        assert torch.equal(our_step["sampling_per_token_logps"], their_step["sampling_per_token_logps"])
    for our_entry, their_entry in zip(comparable(ours["log_history"]), comparable(theirs["log_history"]), strict=True):
        assert {name: our_entry[name] for name in their_entry} == their_entry
        assert not [name for name in our_entry if name.startswith("led/")]
    for name, parameter in theirs["parameters"].items():
        assert torch.equal(ours["parameters"][name], parameter), name


def test_a_rollout_without_a_thought_is_an_error_and_not_standard_decoding(probe):
    error = probe("resume")["error"]
    assert error is not None
    assert "no token of this rollout was sampled with it" in error
    assert "led_think_only: false" in error
