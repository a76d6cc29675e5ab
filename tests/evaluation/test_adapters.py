"""LoRA adapters that cannot be merged are found before any weights are loaded."""

import json
import re

import pytest
from conftest import save_tiny_model

from led_rl.evaluation.adapters import base_of, check_fit, merge
from led_rl.evaluation.rows import EvaluationError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"), layers=2)


@pytest.fixture
def adapter(base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def check(adapter, base):
    from transformers import AutoConfig

    check_fit("mine", str(adapter), str(base), AutoConfig.from_pretrained(base))


def change(adapter, **values):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_an_adapter_that_fits(adapter, base):
    check(adapter, base)
    assert base_of("mine", adapter) == str(base)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda adapter: change(adapter, target_modules=["nowhere"]), r"does not fit its base model .*nowhere"),
        (lambda adapter: change(adapter, r=4), r"lora_A.* has the shape \[2, 64\], and the base takes \[4, 64\]"),
        (lambda adapter: change(adapter, target_modules=["o_proj"]), r"the base has no place for .*q_proj"),
        (lambda adapter: change(adapter, peft_type="PROMPT_TUNING"), "type PROMPT_TUNING, which cannot be merged"),
        (lambda adapter: change(adapter, peft_type="NEW"), r"adapter_config.json cannot be read"),
        (lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b""), "does not fit its base model"),
        (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "holds no weights"),
    ],
)
def test_one_that_does_not_is_one_line(adapter, base, break_it, message):
    break_it(adapter)
    with pytest.raises(EvaluationError, match=rf"^checkpoint mine: .*{message}") as refused:
        check(adapter, base)
    assert "\n" not in str(refused.value)


def test_a_base_of_other_sizes_is_found_out(adapter, base, tmp_path):
    wide = save_tiny_model(tmp_path / "wide", layers=2, hidden_size=128)
    with pytest.raises(EvaluationError, match=r"has the shape \[2, 64\], and the base takes \[2, 128\]"):
        check(adapter, wide)
    with pytest.raises(EvaluationError, match=r"does not fit"):
        merge(str(adapter), str(wide), None, tmp_path / "merged")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"base_model_name_or_path": 5}'])
def test_a_configuration_that_names_no_base(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(EvaluationError, match=re.escape("names no base model")):
        base_of("mine", tmp_path)
