"""The line of a logged step."""

from led_rl.training.progress import describe


def test_the_line_says_how_long_the_run_still_takes():
    logs = {"reward": 0.5, "time/rollout": 2.0, "time/training": 3.0}
    assert describe(3, 9, logs, 3725.4) == "step 3/9 | reward 0.500 | seconds rollout 2.0 + training 3.0 | 1:02:05 left"
    assert "left" not in describe(9, 9, logs, 0.0)
