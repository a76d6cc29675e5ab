"""Requests of a plan: keys of a decoding, and rows of both kinds in a group's order."""

import pytest
from vllm import SamplingParams

from led_rl.decoding import STANDARD, DecodingParams
from led_rl.training.schedules.plan import RolloutPlan
from led_rl.training.schedules.requests import merge, mixed_by_server, mixed_here, with_decoding

LED = DecodingParams("led", depth=4)


def test_a_decoding_takes_the_place_of_another():
    given = {"top_k": 3, "extra_args": {"led_decoding": "led", "led_exploit": False, "mine": 1}}
    assert with_decoding(given, STANDARD, served=False) == {"top_k": 3, "extra_args": {"mine": 1}}
    assert with_decoding(given, LED, served=False)["extra_args"] == {"mine": 1} | LED.to_extra_args()
    assert with_decoding({"extra_args": {"led": True}}, STANDARD, served=False) == {}
    assert with_decoding({}, STANDARD, served=True) == {"vllm_xargs": {"led_decoding": "standard"}}
    assert given["extra_args"]["led_decoding"] == "led"


@pytest.mark.parametrize("explored", [1, 2, 3])
def test_rows_of_a_group_come_in_the_plan_s_order(explored):
    plan = RolloutPlan(LED, 1.0, 4, explored)
    places = [plan.explores(member) for member in range(4)]
    rows = [f"{'led' if plan.explores(row) else 'std'} {row}" for row in range(12)]
    assert merge([r for r in rows if "led" in r], [r for r in rows if "std" in r], places) == rows
    assert merge(None, None, places) is None
    assert merge([], [], places) == []


@pytest.mark.parametrize("here", [3, 6, 8])
def test_rows_are_counted_over_all_processes(here):
    """Groups of four, of which a process may hold a part."""
    plan, asked = RolloutPlan(LED, 1.0, 4, 2), []

    def generate(prompts, sampling_params, use_tqdm):
        asked.extend(sampling_params)

    given = SamplingParams(extra_args={"mine": 1} | LED.to_extra_args())
    for group in range(24 // here):
        mixed_here(generate, plan, group)(["prompt"] * here, sampling_params=given, use_tqdm=False)
    assert [one.extra_args for one in asked] == [{"mine": 1}, {"mine": 1} | LED.to_extra_args()] * 12


def test_a_server_gets_two_requests_for_each_prompt_and_tells_of_both():
    class Client:
        def generate(self, prompts, features=None, n=1, generation_kwargs=None, **sampling):
            kind = generation_kwargs["vllm_xargs"]["led_decoding"]
            ids = [[f"{kind} {prompt} {i}"] for prompt in prompts for i in range(n)]
            self.supports, self.stopped = [[ids[0]] for ids in ids], [kind == "led" for _ in ids]
            self.statistics = [{"rows": n}] if kind == "led" else []
            return {"prompt_ids": prompts, "completion_ids": ids, "logprobs": ids, "logprob_token_ids": None}

    plan, client = RolloutPlan(LED, 1.0, 4, 2), Client()
    client.generate = mixed_by_server(client, plan)
    found = client.generate(prompts=["a", "b"], n=4, generation_kwargs={}, temperature=1.0)
    expected = [[f"{kind} {prompt} {i}"] for prompt in "ab" for i in (0, 1) for kind in ("standard", "led")]
    assert found["completion_ids"] == found["logprobs"] == expected
    assert client.supports == [[row[0]] for row in expected]
    assert client.stopped == [False, True] * 4
    assert client.statistics == [{"rows": 2}]
