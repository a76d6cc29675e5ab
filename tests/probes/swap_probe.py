"""TRL's documented examples through TRL's trainer and LEDGRPOTrainer; tests/training/test_swap.py judges.

swap_probe.py swap MODEL FOLDER     both classes, standard decoding, transformers generation
swap_probe.py led MODEL FOLDER      LEDGRPOTrainer, LED on vLLM: the same examples, and weights that turn NaN
swap_probe.py uneven MODEL FOLDER   by torchrun on two processes, of which one alone calls tools
"""

import json
import math
import os
import sys
from pathlib import Path

from led_rl.engines.environment import prepare_training

prepare_training()
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch  # noqa: E402
import trl.generation.vllm_generation as trl_generation  # noqa: E402
import trl.trainer.grpo_trainer as trl_grpo_trainer  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoTokenizer, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from led_rl.decoding import UserError  # noqa: E402
from led_rl.training.config import LEDGRPOConfig  # noqa: E402
from led_rl.training.trainer import LEDGRPOTrainer  # noqa: E402

SETTINGS = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 16,
    "max_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "seed": 5,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "model_init_kwargs": {"dtype": "float32"},
    "disable_tqdm": True,
    "report_to": "none",
}
VLLM = {
    "use_vllm": True,
    "vllm_mode": "colocate",
    "vllm_enable_sleep_mode": False,
    "vllm_max_model_length": 256,
    "decoding": "led",
}
# After a tool's answer the think part is closed, as templates do that want no second thought.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m['tool_calls'] is defined and m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>"
    "{% if messages[-1]['role'] == 'tool' %}</think>{% endif %}{% endif %}"
)


def letters(completions, **_):
    """Share of letters in each completion."""
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [sum(c.isalpha() for c in text) / max(1, len(text)) for text in texts]


def as_long_as(completions, wanted, log_extra, log_metric, **_):
    lengths = [float(len(text)) for text in completions]
    log_extra("wanted_length", list(wanted))
    log_metric("longest", max(lengths))
    return [-abs(length - goal) for length, goal in zip(lengths, wanted, strict=True)]


def double(number: int) -> int:
    """Doubles a number.

    Args:
        number: What to double.
    """
    return 2 * number


class Counter:
    """An environment whose one tool counts."""

    def reset(self, **_) -> str:
        self.count = 0
        return " Count!"

    def add(self, number: int) -> int:
        """Adds to the count.

        Args:
            number: What to add.
        """
        self.count += number
        return self.count


def calls(names: dict[str, dict], when):
    """A parser of responses for random models: their completions call `names` once where `when(ids)`."""

    def parse(tokenizer, ids, prefix=None, tools=None):
        message = {"role": "assistant", "content": tokenizer.decode(ids, skip_special_tokens=True)}
        if when(ids) and "<|im_start|>tool" not in tokenizer.decode(prefix):
            functions = [{"name": name, "arguments": arguments} for name, arguments in names.items()]
            message["tool_calls"] = [{"type": "function", "function": function} for function in functions]
        return message

    return parse


def tokenizer_of(model: str, tools: bool = False):
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    if tools:
        tokenizer.chat_template, tokenizer.response_template = TEMPLATE, {}
    return tokenizer


class Recorder(LEDGRPOTrainer):
    """Keeps the tensors of each scored batch."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        kept = {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
        self.scored = [*getattr(self, "scored", []), kept]
        return output


def rollout_by_transformers(prompts, trainer):
    """Every completion is the prompt's last token and the end token."""
    ids = trainer.processing_class(prompts)["input_ids"]
    ends = [[prompt[-1], trainer.processing_class.eos_token_id] for prompt in ids]
    return {"prompt_ids": ids, "completion_ids": ends, "logprobs": [[-1.0, -1.0] for _ in ids], "note": "x"}


def rollout_by_engine(prompts, trainer):
    ids = trainer.processing_class(prompts)["input_ids"]
    _, completion_ids, logprobs, _ = trainer.vllm_generation.generate(ids, None, trainer.num_generations)
    return {
        "prompt_ids": ids,
        "completion_ids": completion_ids,
        "logprobs": [[token[0] for token in row] for row in logprobs],
    }


TEXTS = Dataset.from_dict({"prompt": [f"say {c}<think>" for c in "abcdefgh"], "wanted": [4.0, 9.0] * 4})
CHATS = Dataset.from_dict({"prompt": [[{"role": "user", "content": f"say {c}"}] for c in "abcdefgh"]})
ROOM = {"max_completion_length": 120}  # for a tool's answer
EXAMPLES = {
    "quick start": {"train_dataset": CHATS},
    "custom reward": {"reward_funcs": as_long_as},
    "several rewards": {"reward_funcs": [letters, as_long_as], "config": {"reward_weights": [1.0, 0.5]}},
    "tools": {"train_dataset": CHATS, "tools": [double], "parse": {"double": {"number": 4}}, "config": ROOM},
    "environment": {"train_dataset": CHATS, "environment_factory": Counter, "parse": {"add": {"number": 2}},
                    "config": ROOM},
    "rollout_func": {"rollout_func": rollout_by_transformers},
    "adapter": {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")},
    "evaluation": {"eval_dataset": TEXTS, "config": {"eval_strategy": "steps", "eval_steps": 1,
                                                     "per_device_eval_batch_size": 8}},
    "iterable": {"train_dataset": TEXTS.to_iterable_dataset()},
    "truncated completions masked": {"config": {"mask_truncated_completions": True, "loss_type": "vespo"}},
}  # fmt: skip


def build(trainer_class, config_class, model: str, folder, example: dict, when=lambda ids: ids[0] % 2 == 0, **changes):
    example = dict(example)
    config, parse = example.pop("config", {}), example.pop("parse", None)
    if parse:
        trl_grpo_trainer.parse_response = calls(parse, when)
    arguments = {
        "reward_funcs": letters,
        "train_dataset": TEXTS,
        "processing_class": tokenizer_of(model, parse is not None),
    } | example
    rewards, data = arguments.pop("reward_funcs"), arguments.pop("train_dataset")
    args = config_class(output_dir=str(folder), **(SETTINGS | config | changes))
    return trainer_class(model, rewards, args, data, **arguments)  # the first four by position, as TRL has them


def outcome(trainer) -> dict:
    return {
        "log_history": trainer.state.log_history,
        "parameters": {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()},
    }


def swap(model: str, folder: Path) -> dict:
    facts = {}
    classes = {
        "theirs": (GRPOTrainer, GRPOConfig),
        "ours": (LEDGRPOTrainer, LEDGRPOConfig),
        "their config": (LEDGRPOTrainer, GRPOConfig),
    }
    for name, example in EXAMPLES.items():
        for who, pair in classes.items():
            if who == "their config" and name not in ("quick start", "tools"):
                continue
            trainer = build(*pair, model, folder / "swap", example)
            before = dict(trainer.args.generation_kwargs or {})
            trainer.train()
            assert dict(trainer.args.generation_kwargs or {}) == before
            facts.setdefault(name, {})[who] = outcome(trainer)
        print(name, flush=True)
    facts["resumed within a batch"] = resumed_within_a_batch(model, folder / "phase")
    facts["errors"] = errors(model, folder / "errors")
    return facts


def resumed_within_a_batch(model: str, folder: Path) -> list[dict]:
    """Logs of a run that goes on at step 2, where a rollout serves steps 1 to 4 and 5 to 8."""
    config = {"config": {"steps_per_generation": 4, "max_steps": 8, "save_strategy": "steps", "save_steps": 2}}
    build(LEDGRPOTrainer, LEDGRPOConfig, model, folder, config).train()
    trainer = build(LEDGRPOTrainer, LEDGRPOConfig, model, folder, config)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    return trainer.state.log_history


def errors(model: str, folder: Path) -> dict[str, str]:
    """What trainers say of inputs that would learn nothing in silence; where all rewards are None, its log."""

    trainers = []

    def breaks_weights(completions, **_):
        with torch.no_grad():  # after the rollout: no sampler looks at them before the loss
            trainers[-1].model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
        return letters(completions)

    found = {}
    jobs = {
        "infinite reward": {"reward_funcs": lambda completions, **_: [1.0] * (len(completions) - 1) + [math.inf]},
        "taken column": {"reward_funcs": lambda completions, log_extra, **_: log_extra("prompt", completions)},
        "taken metric": {"reward_funcs": lambda completions, log_metric, **_: log_metric("loss", 1.0)},
        "weights": {"reward_funcs": breaks_weights},
        "few rows": {"train_dataset": TEXTS.select(range(1))},
        "no evaluation set": {"config": {"eval_strategy": "steps", "eval_steps": 1}},
        "too deep": {"config": VLLM | {"led_depth": 99}},  # found before an engine starts
        "no reward": {"reward_funcs": lambda completions, **_: [None] * len(completions)},
    }
    for name, example in jobs.items():
        try:
            trainer = build(LEDGRPOTrainer, LEDGRPOConfig, model, folder, example)
            trainers.append(trainer)
            trainer.train()
            found[name] = trainer.state.log_history
        except ValueError as error:
            found[name] = str(error)
    return found


def share_engines() -> None:
    """Trainers that ask for the same engine get one: starting one takes longer than training here."""
    build, engines = trl_generation.LLM, {}

    def engine(**arguments):
        key = repr(sorted(arguments.items()))
        if key not in engines:
            engines[key] = build(**arguments)
        return engines[key]

    trl_generation.LLM = engine


def led(model: str, folder: Path) -> dict:
    share_engines()
    facts = {}
    jobs = {
        **{name: EXAMPLES[name] for name in ("quick start", "custom reward", "several rewards", "tools", "environment",
                                             "adapter", "iterable")},
        "rollout_func": {"rollout_func": rollout_by_engine, "config": {"train_support": "vocabulary"}},
        "evaluation": {**EXAMPLES["evaluation"], "config": {**EXAMPLES["evaluation"]["config"], "max_steps": 3}},
        "stop strings": {"config": {"generation_kwargs": {"stop": list("aeiou")}, "mask_truncated_completions": True,
                                    "max_completion_length": 48, "off_policy_mask_threshold": 0.05}},
    }  # fmt: skip
    for name, example in jobs.items():
        trainer = build(Recorder, LEDGRPOConfig, model, folder / "led", example, **VLLM)
        kwargs = json.dumps(trainer.args.generation_kwargs)
        before = outcome(trainer)["parameters"]
        trainer.train()
        assert json.dumps(trainer.args.generation_kwargs) == kwargs
        facts[name] = outcome(trainer) | {"before": before, "scored": trainer.scored, "ends": trainer.eos_token_ids}
        print(name, flush=True)
        del trainer
    trainer = build(LEDGRPOTrainer, LEDGRPOConfig, model, folder / "led", {"rollout_func": rollout_by_transformers},
                    train_support="vocabulary", **VLLM)  # fmt: skip
    try:
        trainer.train()
    except RuntimeError as error:
        facts["foreign rollouts"] = str(error)
    facts["weights"] = weights_that_turn_nan(model, folder / "weights")
    return facts


class BreaksWeights(TrainerCallback):
    """Makes a weight NaN before the rollout of step 3."""

    def on_step_begin(self, args, state, control, model=None, **_):
        if state.global_step == 2:
            with torch.no_grad():
                model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")


def weights_that_turn_nan(model: str, folder: Path) -> dict:
    """What a run of 4 steps that saves each of them says, what it leaves, and what one resumed from there logs.

    Weights turn NaN after the rollout of step 3, or before it, so that the engine samples with them.
    """
    config = {"config": {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "logging_steps": 2}}
    found = {}
    for when in ("after the rollout", "before the rollout"):
        trainers = []

        def breaks_weights(completions, trainer_state=None, trainers=trainers, **_):
            if trainer_state.global_step == 2:
                BreaksWeights().on_step_begin(None, trainer_state, None, trainers[0].model)
            return letters(completions)

        broken = {"reward_funcs": breaks_weights} if when == "after the rollout" else {"callbacks": [BreaksWeights()]}
        trainers.append(build(LEDGRPOTrainer, LEDGRPOConfig, model, folder / when, broken | config, **VLLM))
        try:
            trainers[0].train()
            found[when] = {"error": None}
        except UserError as error:
            found[when] = {"error": str(error)}
        found[when]["left"] = sorted(path.name for path in (folder / when).glob("checkpoint-*"))
    trainer = build(LEDGRPOTrainer, LEDGRPOConfig, model, folder / "after the rollout", config, **VLLM)
    trainer.train(resume_from_checkpoint=True)
    return found | {"resumed": trainer.state.log_history, "parameters": outcome(trainer)["parameters"]}


def uneven(model: str, folder: Path) -> dict:
    rank = int(os.environ["RANK"])
    trainer = build(
        LEDGRPOTrainer,
        LEDGRPOConfig,
        model,
        folder / "uneven",
        EXAMPLES["tools"],
        when=lambda ids: rank == 1,
        ddp_backend="gloo",
        per_device_train_batch_size=4,
    )
    trainer.train()
    return {"log_history": trainer.state.log_history}


if __name__ == "__main__":
    job, model, folder = sys.argv[1:]
    facts = {"swap": swap, "led": led, "uneven": uneven}[job](model, Path(folder))
    if os.environ.get("RANK", "0") == "0":
        torch.save(facts, Path(folder) / f"{job}.pt")
