"""think_format, overlong, repetition, and loading rewards by name."""

import pickle
import sys

import pytest
from trl.rewards import get_soft_overlong_punishment

from rewards import BUILT_IN, RewardError, load_reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>a</think>b", 1.0),
        ("\n<think>\na\n</think>\n\nb\n", 1.0),
        ("a</think>b", 1.0),  # the chat template opened it
        ("<think>a</think>", 0.0),
        ("<think>a</think>  \n", 0.0),
        ("<think></think>b", 0.0),
        ("</think>b", 0.0),
        ("<think>a", 0.0),
        ("a", 0.0),
        ("", 0.0),
        ("<think>a</think>b</think>c", 0.0),
        ("<think>a</think>b<think>c</think>d", 0.0),
        ("<think><think>a</think>b", 0.0),
        ("b <think>a</think> c", 0.0),
        ("<think>a</think>b<think>", 0.0),
    ],
)
def test_think_format(text, reward):
    rewards = load_reward("think_format")
    assert rewards([text]) == [reward]
    assert rewards([[{"role": "assistant", "content": text}]], prompts=["p"]) == [reward]


def test_think_format_can_allow_empty_thoughts():
    assert load_reward("think_format", allow_empty_thoughts=True)(["<think>\n</think>b", "b"]) == [1.0, 0.0]


def test_overlong_is_dapos_soft_punishment():
    reward = load_reward("overlong", max_length=100, buffer=20)
    lengths = [0, 80, 81, 90, 99, 100, 101, 5_000]
    ids = [[7] * length for length in lengths]
    assert reward([""] * 8, completion_ids=ids) == pytest.approx([0, 0, -0.05, -0.5, -0.95, -1, -1, -1])


@pytest.mark.parametrize(("longest", "buffer"), [(100, 20), (64, 64), (10, 0), (1280, 256)])
def test_overlong_is_trl_s_soft_overlong_punishment(longest, buffer):
    ids = [[7] * length for length in range(longest + 20)]
    reward = load_reward("overlong", max_length=longest, buffer=buffer)
    expected = get_soft_overlong_punishment(longest, buffer)(ids)
    assert reward([""] * len(ids), completion_ids=ids) == pytest.approx(expected)


def test_overlong_never_increases_with_length():
    reward = load_reward("overlong", max_length=64, buffer=64)
    values = reward([""] * 80, completion_ids=[[0] * length for length in range(80)])
    assert values == sorted(values, reverse=True)
    assert min(values) == -1.0


def test_overlong_without_a_buffer_is_a_step():
    reward = load_reward("overlong", max_length=10, buffer=0)
    assert reward([""] * 3, completion_ids=[[0] * 9, [0] * 10, [0] * 11]) == [0.0, 0.0, -1.0]


def test_overlong_needs_token_ids():
    with pytest.raises(ValueError, match="completion_ids"):
        load_reward("overlong", max_length=10, buffer=2)(["x"])


@pytest.mark.parametrize("options", [{"max_length": 0, "buffer": 0}, {"max_length": 5, "buffer": 6}, {"max_length": 5}])
def test_overlong_refuses(options):
    with pytest.raises(RewardError, match="overlong"):
        load_reward("overlong", **options)


def test_repetition():
    reward = load_reward("repetition", n=2)
    distinct, loop = list(range(50)), [1, 2] * 25
    assert reward(["", ""], completion_ids=[distinct, loop]) == pytest.approx([0.0, -(1 - 2 / 49)])
    assert reward(["a b c d", "a b a b a b", "a", ""]) == pytest.approx([0.0, -(1 - 2 / 5), 0.0, 0.0])


def test_repetition_grows_with_the_loop_and_is_bounded():
    reward = load_reward("repetition", n=3, penalty=0.5, allowed=0.25)
    values = reward([""] * 30, completion_ids=[list(range(30)) + [1, 2, 3] * count for count in range(30)])
    assert values == sorted(values, reverse=True)
    assert values[0] == 0.0
    assert -0.5 <= values[-1] < -0.3


@pytest.mark.parametrize("options", [{"n": 0}, {"penalty": 0}, {"allowed": 1}, {"n": True}])
def test_repetition_refuses(options):
    with pytest.raises(RewardError, match="repetition"):
        load_reward("repetition", **options)


OPTIONS = {"overlong": {"max_length": 10, "buffer": 2}, "math_answer": {"workers": 1}}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_reward_is_named_and_picklable(name):
    try:
        reward = load_reward(name, **OPTIONS.get(name, {}))
    except RewardError as error:
        if "no sandbox" not in str(error):
            raise
        pytest.skip(str(error))
    assert reward.__name__ == name
    assert pickle.loads(pickle.dumps(reward)).__name__ == name


def test_unknown_rewards_and_options_say_what_is_allowed():
    with pytest.raises(
        RewardError, match=r"unknown reward 'maths'.*math_answer, think_format.*package.module:function"
    ):
        load_reward("maths")
    with pytest.raises(RewardError, match="no option 'lenght'; its options: max_length, buffer"):
        load_reward("overlong", lenght=3)
    with pytest.raises(RewardError, match="no module"):
        load_reward("no_such_module_here:reward")
    with pytest.raises(RewardError, match="has no 'nothing'"):
        load_reward("json:nothing")
    with pytest.raises(RewardError, match="not a function"):
        load_reward("sys:path")
    with pytest.raises(RewardError):
        load_reward(None)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def short(completions, limit=5, **columns):\n"
        "    return [float(len(completion) <= limit) for completion in completions]\n"
        "class Exact:\n"
        "    __name__ = 'exact'\n"
        "    def __init__(self, word):\n"
        "        self.word = word\n"
        "    def __call__(self, completions, **columns):\n"
        "        return [float(completion == self.word) for completion in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_rewards", None)


def test_a_users_own_function(own_module):
    for path in ("my_rewards:short", "my_rewards.short"):
        reward = load_reward(path)
        assert reward.__name__ == "short"
        assert reward(["abc", "abcdefg"], prompts=["", ""]) == [1.0, 0.0]
    limited = load_reward("my_rewards:short", limit=2)
    assert limited.__name__ == "short"
    assert limited(["ab", "abc"]) == [1.0, 0.0]
    assert load_reward("my_rewards:Exact", word="x")(["x", "y"]) == [1.0, 0.0]
    with pytest.raises(RewardError, match="no option 'size'; its options: limit"):
        load_reward("my_rewards:short", size=2)
