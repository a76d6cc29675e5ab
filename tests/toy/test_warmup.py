import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from led_rl.toy import warmup
from led_rl.toy.countdown import Problem, build_tokenizer, problems
from led_rl.toy.warmup import IGNORED, WarmUpError, batches, warm_up
from rewards.countdown import countdown

SMALL = {"steps": 20, "seed": 3, "batch_size": 4, "save_every": 5}  # more than one pool of batches


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small warm-up that was never interrupted."""
    return warm_up(tmp_path_factory.mktemp("finished"), **SMALL)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def record(folder):
    return json.loads((folder / "warmup.json").read_text())


def start_and_interrupt(folder, step):
    """A small warm-up that is interrupted in the update after `step` updates."""
    original = warmup._train_step

    def train_step(progress, *batch):
        if progress.step == step:
            raise KeyboardInterrupt
        return original(progress, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warmup, "_train_step", train_step)
        with pytest.raises(KeyboardInterrupt):
            warm_up(folder, **SMALL)


@pytest.mark.parametrize("step", [3, 18])  # before the first save; behind a save and the first pool of batches
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, finished, step):
    start_and_interrupt(tmp_path, step)
    assert not (tmp_path / "warmup.json").exists()
    warm_up(tmp_path, **SMALL)
    assert weights(tmp_path) == weights(finished)
    assert record(tmp_path)["loss_curve"] == record(finished)["loss_curve"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in finished.iterdir()}


def test_resuming_repeats_no_update_that_was_saved(tmp_path, monkeypatch):
    start_and_interrupt(tmp_path, 18)
    original = warmup._train_step
    steps = []
    monkeypatch.setattr(warmup, "_train_step", lambda p, *batch: steps.append(p.step) or original(p, *batch))
    warm_up(tmp_path, **SMALL)
    assert steps == [15, 16, 17, 18, 19]


def test_a_save_that_breaks_off_leaves_the_previous_one(tmp_path, monkeypatch, finished):
    save = torch.save

    def break_off_at_the_third(state, path):
        if len(state["losses"]) == 15:
            path.write_bytes(b"half a file")
            raise OSError("no space left on device")
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", break_off_at_the_third)
        with pytest.raises(OSError, match="no space"):
            warm_up(tmp_path, **SMALL)
    warm_up(tmp_path, **SMALL)
    assert weights(tmp_path) == weights(finished)


def test_the_seed_decides_the_weights(tmp_path, finished):
    torch.manual_seed(99)  # the global generator has no say
    before = torch.get_rng_state()
    same = warm_up(tmp_path / "same", **SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    other = warm_up(tmp_path / "other", **{**SMALL, "seed": 4})
    assert weights(same) == weights(finished)
    assert weights(other) != weights(finished)


def test_a_second_start_of_a_finished_warm_up_does_nothing(finished, monkeypatch, capsys):
    monkeypatch.setattr(warmup, "_train_step", lambda *_: pytest.fail("an update ran"))
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert warm_up(finished, **SMALL) == finished
    assert "already complete" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_other_settings_are_refused_where_a_warm_up_finished(finished):
    with pytest.raises(WarmUpError, match=r"seed=3 \(asked for: 8\)"):
        warm_up(finished, **{**SMALL, "seed": 8})


def test_other_settings_are_refused_where_a_warm_up_was_interrupted(tmp_path):
    start_and_interrupt(tmp_path, 7)
    with pytest.raises(WarmUpError, match=r"steps=20 \(asked for: 40\)"):  # the learning rate's decay would differ
        warm_up(tmp_path, **{**SMALL, "steps": 40})


@pytest.mark.parametrize("setting", ["steps", "batch_size", "learning_rate", "save_every"])
def test_settings_that_make_no_sense_are_refused(tmp_path, setting):
    with pytest.raises(ValueError, match=setting):
        warm_up(tmp_path / "never", **{**SMALL, setting: 0})
    assert not (tmp_path / "never").exists()


def test_the_command_line_reports_errors_in_one_line(finished):
    with pytest.raises(SystemExit, match=r"^error: .* holds a warm-up with steps=20 \(asked for: 30\)"):
        warmup.main([str(finished), "--steps", "30"])


def test_a_batch_is_the_chat_template_and_the_response():
    tokenizer = build_tokenizer()
    solved = 0
    for (input_ids, labels), _ in zip(batches(tokenizer, seed=1, batch_size=8), range(20), strict=False):
        for row, answer in zip(input_ids, labels, strict=True):
            learnt = answer != IGNORED
            assert torch.equal(row[learnt], answer[learnt])
            start = int(learnt.nonzero()[0])
            prompt = tokenizer.decode(row[:start], skip_special_tokens=True).split()
            problem = Problem(tuple(map(int, prompt[1:4])), int(prompt[5]))
            templated = tokenizer.apply_chat_template(problem.messages, add_generation_prompt=True)["input_ids"]
            assert row[:start].tolist() == templated
            assert answer[learnt][-1] == tokenizer.eos_token_id
            text = tokenizer.decode(answer[learnt], skip_special_tokens=True)
            solved += countdown([text], [list(problem.numbers)], [problem.target])[0]
    assert 0.4 < solved / 160 < 0.8


def test_a_batch_is_a_function_of_seed_and_position():
    tokenizer = build_tokenizer()

    def first(count, **where):
        return [
            ids.tolist() for (ids, _), _ in zip(batches(tokenizer, batch_size=4, **where), range(count), strict=False)
        ]

    whole = first(40, seed=1)
    assert first(7, seed=1, start=33) == whole[33:]
    assert first(40, seed=2) != whole


def test_training_learns(tmp_path):
    warm_up(tmp_path, steps=100, batch_size=8)
    first, last = (point["loss"] for point in record(tmp_path)["loss_curve"])
    assert first < math.log(119)
    assert last < first / 2


def test_the_directory_is_a_checkpoint_with_its_data(finished):
    model = AutoModelForCausalLM.from_pretrained(finished, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(finished)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer.chat_template == build_tokenizer().chat_template
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (finished / f"{split}.jsonl").read_text().splitlines()]
        assert rows == [{"problem": p.text, "numbers": list(p.numbers), "target": p.target} for p in problems(split)]
    written = record(finished)
    assert (written["steps"], written["seed"]) == (20, 3)
    assert written["seconds"] > 0
