"""The sandbox holds what it is given, with the kernel's help and without it, and says how each program ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.synth.sandbox import Layer, Limits, Outcome, Sandbox

ALL: tuple[Layer, ...] = ("namespaces", "landlock", "seccomp")
LIMITS = Limits(wall_seconds=2, cpu_seconds=1, memory_mib=128, max_output_bytes=4096)


@pytest.fixture(scope="module", params=[ALL, ()], ids=["kernel_layers", "hook_and_limits_only"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(LIMITS, layers=request.param) as box:
        yield box


def test_a_program_prints_and_ends(sandbox: Sandbox) -> None:
    outcome = sandbox.run("import math, textwrap\nprint(math.gcd(12, 18), 'é')")
    assert (outcome.status, outcome.exit_code, outcome.stdout) == ("ok", 0, "6 é\n")


def test_an_exception_is_told_with_its_line(sandbox: Sandbox) -> None:
    outcome = sandbox.run("x = 1\nprint('before')\nx / 0")
    assert (outcome.status, outcome.exit_code, outcome.stdout) == ("error", 1, "before\n")
    assert outcome.stderr == "line 3: ZeroDivisionError: division by zero\n"
    assert "SyntaxError" in sandbox.run("def (").stderr


@pytest.mark.parametrize(
    "program",
    [
        "import socket\nsocket.socket()",
        "import socket\nsocket.create_connection(('127.0.0.1', 80), 1)",
        "import socket\nsocket.getaddrinfo('localhost', 80)",
        "open('/etc/passwd').read()",
        "open('here', 'w').write('x')",
        "import os\nos.open('/tmp', os.O_RDONLY)",
        "import os\nos.mkdir('d')",
        "import os\nos.listdir('/')",
        "import io\nio.open_code('/etc/hostname')",
        "import sys\nopen(sys.path[-1] + '/../../../../../../etc/passwd')",
        "import os\nos.fork()",
        "import os\nos.system('id')",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess\nsubprocess.run(['id'])",
        "import ctypes",
        "import _posixsubprocess",
        "import os\nos.kill(os.getppid(), 9)",
        "import gc\ngc.get_objects()",
        "import mmap\nmmap.mmap(-1, 4096)",
    ],
)
def test_network_files_and_processes_are_refused(sandbox: Sandbox, program: str) -> None:
    outcome = sandbox.run(program)
    assert outcome.status == "error"
    assert "refused in the sandbox" in outcome.stderr
    assert sandbox.run("print(1)").stdout == "1\n"


def test_an_endless_loop_ends(sandbox: Sandbox) -> None:
    before = time.monotonic()
    assert sandbox.run("while True: pass").status == "timeout"
    assert sandbox.run("import time\ntime.sleep(60)").status == "timeout"
    assert time.monotonic() - before < 10


def test_a_program_that_closes_its_outputs_still_ends(sandbox: Sandbox) -> None:
    assert sandbox.run("import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)").status == "timeout"


def test_a_memory_hog_is_stopped(sandbox: Sandbox) -> None:
    outcome = sandbox.run("x = []\nwhile True: x.append(bytearray(10**7))")
    assert outcome.status == "error"
    assert "MemoryError" in outcome.stderr


def test_huge_output_is_cut(sandbox: Sandbox) -> None:
    outcome = sandbox.run("while True: print('x' * 1000)")
    assert outcome.status == "output_limit"
    assert len(outcome.stdout) == 4096


def test_a_fork_bomb_does_not_start(sandbox: Sandbox) -> None:
    outcome = sandbox.run(
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        print('no')\n        break"
    )
    assert (outcome.status, outcome.stdout) == ("ok", "no\n")


def test_exits_are_reported(sandbox: Sandbox) -> None:
    assert sandbox.run("import sys\nsys.exit(3)").exit_code == 3
    assert sandbox.run("import sys\nsys.exit('bye')").exit_code == 1
    assert sandbox.run("raise SystemExit").status == "ok"
    outcome = sandbox.run("import os\nprint('a', flush=True)\nos._exit(5)")
    assert (outcome.status, outcome.exit_code, outcome.stdout) == ("error", 5, "a\n")
    crash = sandbox.run("def f(x): return f(x)\nimport sys\nsys.setrecursionlimit(10**9)\nf(1)")
    assert crash.status in ("killed", "error", "timeout")
    assert sandbox.run("print(1)").status == "ok"


def test_programs_do_not_see_each_other_nor_the_environment(sandbox: Sandbox) -> None:
    sandbox.run("import builtins\nbuiltins.len = None\nimport json\njson.dumps = None")
    assert sandbox.run("import json\nprint(len('ab'), json.dumps(1))").stdout == "2 1\n"
    os.environ["TOKENMILL_TEST_SECRET"] = "s3cret"
    try:
        with Sandbox(LIMITS) as fresh:
            assert "s3cret" not in fresh.run("import os\nprint(dict(os.environ))").stdout
    finally:
        del os.environ["TOKENMILL_TEST_SECRET"]


def test_no_file_of_ours_is_open_inside(sandbox: Sandbox) -> None:
    program = (
        "import os\nfound = []\n"
        "for fd in range(3, 200):\n    try:\n        os.fstat(fd)\n        found.append(fd)\n    except OSError:\n        pass\n"
        "print(found)"
    )
    assert sandbox.run(program).stdout == "[]\n"


def test_a_set_prints_the_same_every_time() -> None:
    program = "print({str(n) for n in range(20)})"
    with Sandbox(LIMITS) as one, Sandbox(LIMITS) as other:
        assert one.run(program).stdout == other.run(program).stdout != ""


def test_odd_programs_are_reported(sandbox: Sandbox) -> None:
    assert sandbox.run("").status == "ok"
    assert sandbox.run("x = '\0'").status == "error"
    assert sandbox.run("print(1)" + " " * (2 << 20)).stderr.startswith("program has 2097160 bytes")
    assert sandbox.run("print('\\ud800')").stdout == "\\ud800\n"
    assert sandbox.run("input()").stderr.startswith("line 1: EOFError")


def test_a_dead_server_is_replaced_and_no_program_is_lost() -> None:
    with Sandbox(LIMITS) as box:
        assert box.run("print(1)").status == "ok"
        assert box._process is not None
        box._process.kill()
        box._process.wait()
        outcomes = box.run_all(["print(2)", "print(3)", "print(4)"])
    assert [o.stdout for o in outcomes] == ["2\n", "3\n", "4\n"]


def test_a_program_at_which_servers_die_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(LIMITS) as box:
        real, asked = Sandbox._reply, []

        def reply(self: Sandbox, process: subprocess.Popen[bytes]) -> Outcome:
            asked.append(process.pid)
            if len(asked) <= 2:
                os.killpg(process.pid, signal.SIGKILL)  # what a program that felled its server would look like
                process.wait()
            return real(self, process)

        monkeypatch.setattr(Sandbox, "_reply", reply)
        outcomes = box.run_all(["import time\ntime.sleep(1)", "print(2)"])
    assert [o.status for o in outcomes] == ["sandbox_failed", "ok"]
    assert len(set(asked)) == 3


def test_close_leaves_no_folder_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Sandbox(LIMITS) as box:
        assert list(tmp_path.iterdir())
        process = box._process
    assert process is not None
    assert process.returncode is not None
    assert list(tmp_path.iterdir()) == []


BEHIND_THE_HOOK = """
import sys
frame, found = sys._getframe(), None
while frame is not None:
    install = frame.f_locals.get("filter_calls")
    for cell in install.__closure__ if install else ():
        if type(cell.cell_contents).__name__ == "CDLL":
            found = cell.cell_contents
    frame = frame.f_back
call = vars(found)["syscall"]
at_here = -100
print(call(57), call(41, 2, 1, 0), call(257, at_here, b"/etc/passwd", 0), call(257, at_here, b"x", 0o101, 0o600))
print(call(257, at_here, sys.path[-1].encode(), 0) > 0)
"""
"""Walks up to the server's own C library handle and calls the kernel: fork, socket, open for reading, create a file."""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.uname().machine != "x86_64", reason="call numbers of Linux on x86_64"
)
def test_the_kernel_refuses_what_gets_past_the_hook() -> None:
    with Sandbox(LIMITS) as box:
        if not {"landlock", "seccomp"} <= set(box.layers):
            pytest.skip(f"this kernel lends only {box.layers}")
        outcome = box.run(BEHIND_THE_HOOK)
    assert (outcome.stderr, outcome.stdout) == ("", "-1 -1 -1 -1\nTrue\n")


def test_layers_that_took_hold_are_named() -> None:
    with Sandbox(LIMITS, layers=()) as box:
        assert box.layers == ("rlimits", "audit_hook")
    with Sandbox(LIMITS) as box:
        assert set(box.layers) >= {"rlimits", "audit_hook"}
        if "namespaces" in box.layers:
            assert box.run("import os\nprint(os.getppid())").stdout == "1\n"
        if "seccomp" in box.layers:
            assert (
                "can't start new thread" in box.run("import threading\nthreading.Thread(target=print).start()").stderr
            )


@pytest.mark.slow
def test_small_programs_run_at_a_useful_rate() -> None:
    with Sandbox(LIMITS) as box:
        before = time.monotonic()
        outcomes = box.run_all([f"print(sum(range({n})))" for n in range(300)])
        seconds = time.monotonic() - before
    assert [o.stdout for o in outcomes] == [f"{n * (n - 1) // 2}\n" for n in range(300)]
    assert seconds < 15  # 20 per second at least, on a machine that does ten other things
