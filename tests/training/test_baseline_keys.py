"""The recipe keys of DoLa and near_final: what rollouts, engine and evaluation make of them; what cannot train."""

import pytest
from trl import TrlParser

from led_rl.sampler.capture_options import EngineOptions
from led_rl.training.config import LEDGRPOConfig
from led_rl.training.evaluation_callback import options_for_evaluation
from led_rl.training.evaluation_keys import evaluation_decodings


def config(folder, **changes):
    return LEDGRPOConfig(str(folder), **({"use_cpu": True, "bf16": False} | changes))


@pytest.mark.parametrize(("text", "layers"), [("low", "low"), ("high", "high"), ("3, 5", (3, 5)), ("7", (7,))])
def test_layers_are_a_bucket_or_numbers(tmp_path, text, layers):
    common = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false", "--decoding", "dola"]
    (args,) = TrlParser(LEDGRPOConfig).parse_args_and_config([*common, "--led_dola_layers", text])
    assert args.decoding_params().dola_layers == layers
    assert args.use_vllm


def test_each_decoding_gets_its_own_keys_and_number_of_candidates(tmp_path):
    keys = {"led_dola_relative_top": 0.3, "led_near_final_layers": 3, "eval_strategy": "steps"}
    names = ["standard", "led", "dola", "near_final"]
    args = config(tmp_path, decoding="dola", eval_decodings=names, **keys)
    found = evaluation_decodings(args)
    assert (found["dola"].dola_relative_top, found["near_final"].near_final_layers) == (0.3, 3)
    assert [found[name].k for name in names] == [8, 8, 64, 20]
    assert args.decoding_params() == found["dola"]
    options = options_for_evaluation(EngineOptions.for_decoding(found["dola"]), args)
    captured = options.captured_layers(12)
    assert options.baselines == ("dola_low", "near_final=3")
    for decoding in found.values():
        assert set(decoding.layers(12)) <= set(captured)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoding": "soft_thinking"}, "'soft_thinking' cannot train: .* none has a log-probability"),
        ({"decoding": "led", "led_dola_relative_top": 0.3}, "led_dola_relative_top belongs to dola"),
        ({"decoding": "dola", "led_dola_layers": "middle"}, "led_dola_layers must be one of low, high"),
        ({"decoding": "dola", "led_dola_layers": "1,high"}, "led_dola_layers must be one of low, high or a list"),
        ({"decoding": "near_final", "led_near_final_layers": 0}, "led_near_final_layers must be an integer >= 1"),
    ],
)
def test_wrong_keys_are_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **changes)
