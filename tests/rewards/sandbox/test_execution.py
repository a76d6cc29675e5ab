"""Programs in the sandbox: honest ones run, hostile ones are contained. Each attack is really carried out."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from rewards.sandbox.command import Limits, Sandbox, SandboxError, find_sandbox
from rewards.sandbox.execution import run_program, tree_memory

try:
    SANDBOX = find_sandbox("bubblewrap")
    REASON = ""
except SandboxError as error:
    SANDBOX, REASON = None, str(error)
needs_sandbox = pytest.mark.skipif(SANDBOX is None, reason=REASON)
SHORT = Limits(seconds=3.0, memory_mb=256, processes=8, output_bytes=100_000, scratch_mb=8)


def run(program, given="", function=None, limits=SHORT):
    return run_program(SANDBOX, program, given, function, limits)


def processes_named(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@needs_sandbox
def test_an_honest_program_reads_and_writes():
    done = run(
        "a, b = map(int, input().split())\nprint(a + b)\nopen('x', 'w').write('y')\nprint(open('x').read())", "2 3\n"
    )
    assert (done.status, done.output) == ("done", b"5\ny\n")
    given = "\n".join(map(str, range(200_000)))
    assert run("import sys; print(len(sys.stdin.read()))", given).output == f"{len(given)}\n".encode()
    assert run("print('unread')", given).output == b"unread\n"


@needs_sandbox
def test_functions_and_methods_are_called():
    assert run("def f(a, b): print('noise'); return [a, b]", '[1]\n"x"', "f").output == b'[[1], "x"]'
    assert run("class Solution:\n    def f(self, a): return a * 2", "21", "f").output == b"42"
    assert run("x = 1", "21", "f").status == "error"


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("while True: pass", "time limit"),
        ("import time; time.sleep(60)", "time limit"),
        ("import os; os.close(1)\nwhile True: pass", "time limit"),
        ("x = bytearray(1 << 29)", "error"),  # MemoryError under the limit of one process
        ("while True: print('x' * 1000)", "output limit"),
        ("raise ValueError", "error"),
        ("import sys; sys.exit(3)", "error"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "error"),
        ("def f(", "error"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "error"),
    ],
)
def test_limits(program, status):
    started = time.monotonic()
    assert run(program).status == status
    assert time.monotonic() - started < 2 * SHORT.seconds + 3


@needs_sandbox
def test_a_fork_bomb_meets_its_limit_and_leaves_nothing_behind():
    bomb = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""
    assert run(bomb).status == "time limit"
    forks = """
import os, time
n = 0
try:
    while n < 100:
        if os.fork() == 0: time.sleep(9)
        n += 1
except OSError: os.write(1, str(n).encode())
os._exit(0)
"""
    assert 0 < int(run(forks).output) < SHORT.processes
    threads = """
import os, threading, time
n = 0
try:
    while n < 100:
        threading.Thread(target=time.sleep, args=(9,)).start()
        n += 1
except RuntimeError: os.write(1, str(n).encode())
os._exit(0)
"""
    assert 0 < int(run(threads).output) < SHORT.processes
    time.sleep(0.2)
    assert [pid for pid in processes_named("--disable-userns") if not alive_elsewhere(pid)] == []


def alive_elsewhere(pid: str) -> bool:
    """Whether a sandbox belongs to another test process on this machine: its parents lead there, not here."""
    while pid not in ("0", "1"):
        if pid == str(os.getpid()):
            return False
        try:
            pid = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            return True
    return True


@needs_sandbox
def test_memory_of_all_processes_together_is_limited():
    hoard = "import os, time\nfor _ in range(5):\n    if os.fork() == 0: break\nx = b'x' * (90 << 20)\ntime.sleep(9)"
    assert run(hoard).status == "memory limit"
    fill = """
f = open('big', 'wb')
try:
    for _ in range(100): f.write(b'x' * (1 << 20)); f.flush()
except OSError as e: print(e.errno, flush=True); import os; os._exit(0)
"""
    assert run(fill).output.strip() in (b"28", b"27")  # no space left, file too large


@needs_sandbox
def test_files_and_environment_of_the_grader_are_out_of_sight(tmp_path, monkeypatch):
    secret = tmp_path / "expected.txt"
    secret.write_text("42")
    tmp_path.chmod(0o777)
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    looks = [str(secret), __file__, "/etc/passwd", "/root", "/home", "/proc/1/environ", "/proc/1/root", "/sys"]
    program = f"""
import os
for path in {looks}:
    try: print(os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read()[:200])
    except OSError as error: print('no', error.errno)
print(sorted(os.environ), os.listdir('/scratch'))
"""
    lines = run(program).output.decode().splitlines()
    assert "hunter2" not in "".join(lines)
    assert lines[:5] == ["no 2"] * 5
    assert lines[-1] == "['HOME', 'LANG', 'PATH', 'PWD'] []"
    for path in ("/usr/x", "/x", "/proc/sys/kernel/hostname", "/dev/x", "/dev/shm/x"):
        assert run(f"open({path!r}, 'w').write('x')").status == "error", path


@needs_sandbox
def test_no_network_reaches_the_machine():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0led-rl-sandbox-test")
        unix.listen()
        port = server.getsockname()[1]
        program = f"""
import socket
for family, address in ((socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_INET, ("1.1.1.1", 53)),
                        (socket.AF_UNIX, "\\0led-rl-sandbox-test")):
    try:
        s = socket.socket(family); s.settimeout(0.5); s.connect(address); print("connected")
    except OSError as error: print("no")
"""
        assert run(program).output == b"no\nno\nno\n"


@needs_sandbox
def test_the_parent_cannot_be_killed_or_traced():
    program = """
import os, signal
for pid in (1, os.getppid(), -1):
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
print(sorted(p for p in os.listdir('/proc') if p.isdigit()), flush=True)
print("still here")
"""
    assert run(program).output.decode().endswith("still here\n")
    assert run("print('next')").output == b"next\n"


@needs_sandbox
def test_the_answer_channel_gives_nothing_that_was_not_computed():
    """Expected outputs never enter the sandbox, so a program can only write what it could have returned."""
    write = """
import os
for fd in range(3, 20):
    try: os.write(fd, b'[1, 2]')
    except OSError: pass
def f(a): return 3
"""
    assert run(write, "1", "f").output != b"3"  # it spoilt its own answer
    quit_early = "import sys, os\nsys.exit(0)"
    assert run(quit_early, "1", "f").output == b""
    patch = """
import builtins, json
json.dumps = lambda x: 'True'
builtins.eval = builtins.compile = lambda *a: None
def f(a): return 3
"""
    assert run(patch, "1", "f").output == b"True"
    look = "import sys\nprint(sorted(sys._getframe(1).f_locals['order']))"
    assert run(look).output == b"['function', 'limits', 'prelude', 'program']\n"


@needs_sandbox
def test_new_user_namespaces_and_mounts_are_refused():
    assert run("import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))").output.strip() in (b"-1", b"")
    assert (
        run("import ctypes; print(ctypes.CDLL(None).mount(b'x', b'/scratch', b'tmpfs', 0, 0))").output.strip() != b"0"
    )
    assert run("import os; print(os.getuid() != 0 or os.geteuid() != 0)").output == b"True\n"


@needs_sandbox
def test_many_at_a_time():
    results = [None] * 12

    def one(i):
        results[i] = run(f"print({i} * int(input()))", "2").output

    threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [f"{2 * i}\n".encode() for i in range(12)]


def test_memory_of_a_process_tree_counts_the_children():
    assert tree_memory(os.getpid()) > 1 << 20
    assert tree_memory(2**22 - 1) == 0


def test_without_a_sandbox_it_is_said_how_to_get_one(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        SandboxError, match=r"bubblewrap: not installed; podman: not installed.*apt-get install bubblewrap"
    ):
        find_sandbox()


def test_a_container_gets_the_same_limits():
    command = " ".join(Sandbox("podman", "podman", "python3", "python:3.12-slim").command(SHORT))
    for part in (
        "--network none",
        "--read-only",
        "--memory 256m",
        "--pids-limit 8",
        "/scratch:size=8m",
        "--pull never",
    ):
        assert part in command
