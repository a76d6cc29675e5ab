"""The commit that a run was made with."""

import subprocess

from led_rl.training.observation.provenance import facts, git_revision


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_revision_of_a_checkout_says_whether_files_differ(tmp_path):
    assert git_revision(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "other").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    assert git_revision(tmp_path) is None  # a checkout of something else
    (tmp_path / "led_rl").mkdir()
    source = tmp_path / "led_rl" / "led.py"
    source.write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "two")
    assert git_revision(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
    source.write_text("2")
    assert git_revision(tmp_path) == git(tmp_path, "rev-parse", "HEAD") + "+changes"


def test_packages_and_machine():
    found = facts(3)
    assert found["processes"] == 3
    assert {"torch", "transformers", "trl", "led-rl"} <= set(found["packages"])
