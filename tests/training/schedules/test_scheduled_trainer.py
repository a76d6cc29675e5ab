"""What real training runs did whose rollouts and groups change over steps (probes/schedules_probe.py)."""

import pytest
import torch
from conftest import save_tiny_model
from subprocesses import probe_runner

SIZE = 4  # completions of a group
HEAT = [1.2, 1.1, 1.0, 0.9]
CLOCKED = ("time/", "step_time", "train_", "profiling/", "rollout/tokens_per_second")


@pytest.fixture(scope="module")
def facts_of(tmp_path_factory):
    """`facts_of(job)`: what the probe's job found, run once."""
    folder = tmp_path_factory.mktemp("schedules")
    model = save_tiny_model(folder / "model", layers=8, seed=3)
    return probe_runner("schedules_probe", folder, model, of_two="two")


def logged(found):
    return [entry for entry in found["log_history"] if "dynamic_sampling/rounds" in entry or "loss" in entry]


def groups(rows):
    return [rows[i : i + SIZE] for i in range(0, len(rows), SIZE)]


def tokens_of(batch, row):
    return batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()


def is_dull(letter):
    return "abcdefghijklmnop".index(letter) % 2 == 0


def check_advantages(rewards, advantages):
    for values, found in zip(groups(rewards), groups(advantages), strict=True):
        values = torch.tensor(values)
        torch.testing.assert_close(
            torch.tensor(found), (values - values.mean()) / (values.std() + 1e-4), atol=1e-5, rtol=0
        )


def test_groups_that_differ_stay_bit_for_bit_and_the_others_make_way(facts_of):
    plain, dynamic = facts_of("here")["plain"]["scored"][0], facts_of("here")["dynamic"]["scored"][0]
    before, after = groups(plain["letters"]), groups(dynamic["letters"])
    differs = [len(set(rewards)) > 1 for rewards in groups(plain["rewards"])]
    assert 0 < sum(differs) < len(differs)
    for group, stays in enumerate(differs):
        rows = slice(group * SIZE, (group + 1) * SIZE)
        if stays:
            assert before[group] == after[group]
            for name in ("completion_ids", "completion_mask", "advantages", "prompt_ids"):
                assert torch.equal(plain[name][rows], dynamic[name][rows]), name
            assert plain["rewards"][rows] == dynamic["rewards"][rows]
        else:
            assert after[group][0] not in plain["letters"]  # a fresh prompt
            assert len(set(after[group])) == 1
            assert len(set(dynamic["rewards"][rows])) > 1
    check_advantages(dynamic["rewards"], dynamic["advantages"].tolist())


def test_what_is_logged_is_what_is_trained_on(facts_of):
    found = facts_of("here")["dynamic"]
    tokens = 0
    for entry, batch in zip(logged(found), found["scored"], strict=True):
        assert batch["asked"] == batch["letters"]  # log_extra's column goes with its row
        assert [prompt[4] for prompt in batch["prompts"]] == batch["letters"]
        equal = sum(len(set(rewards)) == 1 for rewards in groups(batch["rewards"]))
        assert entry["dynamic_sampling/left_groups"] == equal
        assert entry["frac_reward_zero_std"] == equal / 4
        assert entry["reward"] == pytest.approx(sum(batch["rewards"]) / 16)
        tokens += int(batch["completion_mask"].sum() + batch["prompt_mask"].sum())
        assert entry["num_tokens"] == tokens
        assert entry["completions/mean_length"] == batch["completion_mask"].sum() / 16


def test_rounds_are_bounded_and_counted(facts_of):
    unbounded, bounded = logged(facts_of("here")["dynamic"]), logged(facts_of("here")["bounded"])
    assert max(entry["dynamic_sampling/rounds"] for entry in unbounded) == 3
    assert [entry["dynamic_sampling/rounds"] for entry in bounded] == [1, 1]
    assert sum(entry["dynamic_sampling/left_groups"] for entry in [*unbounded, *bounded]) > 0
    for entry in [*unbounded, *bounded]:
        values = {
            name: entry[f"dynamic_sampling/{name}"] for name in ("equal_groups", "replaced_groups", "left_groups")
        }
        assert values["equal_groups"] == values["replaced_groups"] + values["left_groups"]
        # 12 tokens a completion here: those of every group drawn, kept or not, but for the groups that are trained on
        assert entry["dynamic_sampling/discarded_tokens"] == entry["dynamic_sampling/drawn_prompts"] * SIZE * 12


def test_a_resumed_run_draws_what_the_unbroken_run_does(facts_of):
    unbroken, resumed = facts_of("here")["dynamic"], facts_of("here")["resumed"]
    for entry, expected in zip(logged(resumed), logged(unbroken), strict=True):
        for name, value in expected.items():
            if not name.startswith(CLOCKED):
                assert entry[name] == value, name
    assert [batch["letters"] for batch in resumed["scored"]] == [batch["letters"] for batch in unbroken["scored"][2:]]
    for name, value in unbroken["parameters"].items():
        assert torch.equal(resumed["parameters"][name], value), name


def test_a_batch_that_is_split_and_used_twice_is_filled_once(facts_of):
    """One rollout of 16 rows serves four steps of 8: 4 groups in 4 parts, twice."""
    found, whole = facts_of("here")["used twice"], facts_of("here")["dynamic"]
    assert len(found["scored"]) == 1
    assert [entry["step"] for entry in found["log_history"] if "dynamic_sampling/rounds" in entry] == [1]
    assert torch.equal(found["scored"][0]["completion_ids"], whole["scored"][0]["completion_ids"])
    assert len([entry for entry in found["log_history"] if "loss" in entry]) == 4


def test_two_processes_make_the_same_rounds_and_keep_groups_whole(facts_of):
    found = facts_of("two")
    entries = logged(found)
    assert len(entries) == 3
    assert sum(entry["dynamic_sampling/replaced_groups"] for entry in entries) > 0
    for step, entry in enumerate(entries):
        parts = [part[step] for part in found["scored"]]
        assert [len(part["letters"]) for part in parts] == [6, 6]
        letters = [letter for part in parts for letter in part["letters"]]
        assert all(len(set(group)) == 1 for group in groups(letters))
        assert parts[0]["asked"] == letters
        rewards, advantages = parts[0]["rewards"], torch.cat([part["advantages"] for part in parts])
        assert rewards == parts[1]["rewards"]
        check_advantages(rewards, advantages.tolist())
        left = sum(len(set(group)) == 1 for group in groups(rewards))
        assert left == entry["dynamic_sampling/left_groups"]
        # three groups of four on two processes: prompts come in twos or more, so that both have equally many rows
        assert entry["dynamic_sampling/drawn_prompts"] >= entry["dynamic_sampling/replaced_groups"]
        spelled = {
            (letter, ids[4].item())
            for part in parts
            for letter, ids in zip(part["letters"], part["prompt_ids"], strict=True)
        }
        assert len(spelled) == len({letter for letter, _ in spelled})  # rows' tokens are of the prompts that they name


def test_requests_ask_for_what_the_step_s_plan_says(facts_of):
    found = facts_of("vllm")["mixed"]
    depths, ks = [4, 8, 2], [8, 6, 4]
    assert len(found["requests"]) == 4
    for step, rows in enumerate(found["requests"]):
        assert [temperature for temperature, _ in rows] == pytest.approx([HEAT[step]] * 16)
        explores = ["led_decoding" in asked for _, asked in rows]
        if step == 3:
            assert not any(explores)  # led_to_step
            continue
        assert explores == [False, True] * 8
        asked = {(one["led_depth"], one.get("led_k", 8)) for _, one in rows if one}
        assert asked == {(depths[step], ks[step])}
    entries = logged(found)
    assert [entry["schedule/led_share"] for entry in entries] == [0.5, 0.5, 0.5, 0.0]
    assert [entry["schedule/led_depth"] for entry in entries][:3] == depths
    assert [entry["schedule/led_k"] for entry in entries][:3] == ks
    assert [entry["schedule/temperature"] for entry in entries] == pytest.approx(HEAT)
    assert ["led/confidence" in entry for entry in entries] == [True, True, True, False]


def test_half_of_each_group_is_sampled_with_led(facts_of):
    for step, batch in enumerate(facts_of("vllm")["mixed"]["scored"]):
        drawn_with_led = (batch["support_explored"] >= 0).any(-1).tolist()
        assert drawn_with_led == ([False, True] * 8 if step < 3 else [False] * 16)
        widths = (batch["support_ids"] >= 0).sum(-1)[torch.tensor(drawn_with_led)]
        assert step == 3 or widths.max() == [8, 6, 4][step]


def test_standard_rows_of_a_mixed_group_are_those_of_a_standard_run(facts_of):
    """Requests of the same seeds, and weights that never change. Here they are equal bit for bit."""
    standard, mixed = facts_of("vllm")["standard"]["scored"], facts_of("vllm")["mixed"]["scored"]
    for step, (expected, found) in enumerate(zip(standard, mixed, strict=True)):
        assert expected["letters"] == found["letters"]
        for row in range(16):
            if row % 2 == 0 or step == 3:
                assert tokens_of(found, row) == tokens_of(expected, row)
                length = len(tokens_of(found, row))
                told = [batch["sampling_per_token_logps"][row, :length] for batch in (found, expected)]
                torch.testing.assert_close(*told, atol=2e-6, rtol=0)


def test_rewards_are_split_by_how_rows_were_sampled(facts_of):
    found = facts_of("vllm")["mixed"]
    for step, (entry, batch) in enumerate(zip(logged(found), found["scored"], strict=True)):
        if step == 3:
            assert "led/reward_led" not in entry
            continue
        assert entry["led/reward_standard"] == pytest.approx(sum(batch["rewards"][0::2]) / 8)
        assert entry["led/reward_led"] == pytest.approx(sum(batch["rewards"][1::2]) / 8)


@pytest.mark.parametrize("run", ["standard", "mixed"])
def test_the_loss_has_the_temperature_that_rows_were_sampled_at(facts_of, run):
    """The engine's log-probabilities of standard rows are the policy's own: any other temperature would be seen."""
    for step, batch in enumerate(facts_of("vllm")[run]["scored"]):
        apart = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).abs() * batch["completion_mask"]
        rows = slice(0, None, 2) if run == "mixed" and step < 3 else slice(None)
        assert apart[rows].max() < 2e-5
        assert batch["old_per_token_logps"].abs().max() > 1


def test_the_mean_ratio_of_rows_drawn_with_led_is_1(facts_of):
    """E over mu of pi / mu is 1 over the support, at every depth, k and temperature: within 4 standard errors."""
    ratios = []
    for batch in facts_of("vllm")["mixed"]["scored"][:3]:
        with_led = (batch["support_explored"] >= 0) & batch["completion_mask"].bool()
        ratios.append((batch["old_per_token_logps"] - batch["sampling_per_token_logps"])[with_led].exp())
        error = ratios[-1].std() / len(ratios[-1]) ** 0.5
        assert len(ratios[-1]) > 50
        assert (ratios[-1].mean() - 1).abs() < 4 * error + 1e-6


def test_supports_and_log_probabilities_go_with_replaced_rows(facts_of):
    found = facts_of("vllm")["dynamic"]
    entries = logged(found)
    assert sum(entry["dynamic_sampling/replaced_groups"] for entry in entries) > 0
    for entry, batch in zip(entries, found["scored"], strict=True):
        counted = batch["completion_mask"].bool()
        inside = (batch["support_ids"] == batch["completion_ids"][..., None]).any(-1)
        assert inside[counted].all()
        ratio = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).exp()
        standard = torch.arange(16) % 2 == 0
        torch.testing.assert_close(
            ratio[standard][counted[standard]], torch.ones(int(counted[standard].sum())), atol=2e-5, rtol=0
        )
        assert ((batch["support_explored"] >= 0).any(-1) == ~standard)[counted.any(-1)].all()
        assert batch["asked"] == batch["letters"]
        whole = counted.any(-1)  # what neither end token nor stop string ended is masked
        assert entry["completions/clipped_ratio"] == pytest.approx(1 - whole.float().mean().item())
        assert batch["num_items_in_batch"] == counted.sum()
        assert entry["led/reward_led"] == pytest.approx(sum(batch["rewards"][1::2]) / 8)
