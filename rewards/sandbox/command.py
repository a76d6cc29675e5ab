"""How a sandbox is started on this machine: bubblewrap, or a container where that is what there is."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("bubblewrap", "podman", "docker")
NOBODY = 65534
DRIVER = (Path(__file__).parent / "driver.py").read_text(encoding="utf-8")
HOW_TO_GET_ONE = (
    "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap), podman or docker"
)


class SandboxError(RuntimeError):
    """No sandbox works here; says what was tried and how to get one."""


@dataclass(frozen=True)
class Limits:
    """Of one program run."""

    seconds: float = 6.0  # wall clock
    memory_mb: int = 1024  # of all processes together
    processes: int = 16  # threads included
    output_bytes: int = 4 << 20
    scratch_mb: int = 64


@dataclass(frozen=True)
class Sandbox:
    """A way of starting programs. `command(limits)` runs the driver."""

    kind: str
    program: str
    interpreter: str
    image: str = ""
    as_user: dict[str, Any] = field(default_factory=dict)

    def popen_arguments(self) -> dict[str, Any]:
        """Of `subprocess.Popen`: who runs it, and an environment of its own, which shows in the sandbox's /proc/1."""
        kept = ("PATH",) if self.kind == "bubblewrap" else ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST")
        return {"cwd": "/", "env": {name: os.environ[name] for name in kept if name in os.environ}, **self.as_user}

    def command(self, limits: Limits) -> list[str]:
        if self.kind == "bubblewrap":
            return [self.program, *_bubblewrap(self.interpreter, limits), self.interpreter, "-I", "-S", "-c", DRIVER]
        return [self.program, *_container(limits), self.image, self.interpreter, "-I", "-S", "-c", DRIVER]


def _bubblewrap(interpreter: str, limits: Limits) -> list[str]:
    """The interpreter and the system's libraries, read-only; an empty scratch folder in memory; nothing else."""
    options = [
        *("--unshare-user", "--unshare-all", "--disable-userns", "--cap-drop", "ALL", "--die-with-parent"),
        *("--new-session", "--hostname", "sandbox", "--clearenv"),
        *("--setenv", "PATH", "/usr/bin", "--setenv", "LANG", "C.UTF-8", "--setenv", "HOME", "/scratch"),
        *("--ro-bind", "/usr", "/usr"),
    ]
    for name in ("bin", "lib", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    if not interpreter.startswith("/usr/"):
        prefix = str(Path(interpreter).parents[1])
        options += ["--ro-bind", prefix, prefix]
    size = str(limits.scratch_mb << 20)
    options += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--size", size, "--tmpfs", "/scratch"]
    return [*options, "--remount-ro", "/", "--chdir", "/scratch", "--"]


def _container(limits: Limits) -> list[str]:
    """The same through podman or docker."""
    return [
        *("run", "--rm", "--interactive", "--network", "none", "--read-only", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--user", f"{NOBODY}:{NOBODY}", "--pids-limit", str(limits.processes)),
        *("--memory", f"{limits.memory_mb}m", "--memory-swap", f"{limits.memory_mb}m", "--pull", "never"),
        *(
            "--tmpfs",
            f"/scratch:size={limits.scratch_mb}m,mode=1777",
            "--workdir",
            "/scratch",
            "--env",
            "HOME=/scratch",
        ),
    ]


def find_sandbox(kind: str = "auto", image: str = "python:3.12-slim") -> Sandbox:
    """The first of KINDS that runs a program here, or the one that is asked for.

    Args:
        image: of a container, pulled beforehand; it needs `python3`.

    Raises:
        SandboxError: nothing works; each attempt with its reason, and how to get one.
    """
    failures = []
    for name in KINDS if kind == "auto" else (kind,):
        program = shutil.which({"bubblewrap": "bwrap"}.get(name, name))
        if program is None:
            failures.append(f"{name}: not installed")
            continue
        for sandbox in _candidates(name, program, image):
            reason = _try(sandbox)
            if reason is None:
                return sandbox
            failures.append(f"{name} with {sandbox.interpreter}: {reason}")
    raise SandboxError(f"no sandbox for model-written programs ({'; '.join(failures)}); {HOW_TO_GET_ONE}")


def _candidates(kind: str, program: str, image: str) -> list[Sandbox]:
    if kind != "bubblewrap":
        return [Sandbox(kind, program, "python3", image)]
    own = str(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"))
    interpreters = list(dict.fromkeys(path for path in (own, "/usr/bin/python3") if Path(path).exists()))
    # The kernel does not limit the number of root's processes, so a sandbox never runs as root.
    as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    return [Sandbox(kind, program, interpreter, "", as_user) for interpreter in interpreters]


def _try(sandbox: Sandbox) -> str | None:
    """Why the sandbox cannot run a program; None if it can."""
    limits = {"memory": 1 << 30, "cpu_seconds": 10, "processes": 16, "file_bytes": 1 << 20}
    program = {"prelude": "", "program": "print(6 * 7)", "function": None, "limits": limits}
    order = json.dumps(program).encode()
    try:
        done = subprocess.run(
            sandbox.command(Limits()),
            input=b"%08d" % len(order) + order,
            capture_output=True,
            timeout=60,
            **sandbox.popen_arguments(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0 and done.stdout.strip() == b"42":
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"exit status {done.returncode}"
