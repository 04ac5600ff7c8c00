"""The inside of the sandbox: a small server that forks once per program. Run by `sandbox.py`, never imported by it.

Stands alone on the standard library, because it starts with `-S` and no path to our packages. Trade-off: one fork per
program (about 2 ms with its limits and filters) instead of one interpreter (about 17 ms) or none; so a program can break nothing but itself, and
the next one finds a fresh interpreter.

Layers, strongest first; what the kernel refuses is left out, and the greeting says which are on:
namespaces (user, network, processes, IPC), Landlock (files), seccomp (system calls), rlimits, audit hook.

Wire format, big endian. Greeting: u32 length, names of the layers joined by commas. Request: u32 length, program.
Reply: i32 wait status, u8 verdict, u32 length of stdout, u32 length of stderr, both.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

FINISHED, TIMED_OUT, TOO_MUCH_OUTPUT = 0, 1, 2

# Audit events that a plain program raises; all others are refused, so that an event that a later Python adds is
# refused until someone looks at it. `open`, `os.listdir`, `os.scandir` and `import` are judged by their argument.
HARMLESS_EVENTS = frozenset(
    [
        "array.__new__",
        "builtins.id",
        "builtins.input",
        "builtins.input/result",
        "code.__new__",
        "compile",
        "exec",
        "function.__new__",
        "marshal.dumps",
        "marshal.load",
        "marshal.loads",
        "object.__delattr__",
        "object.__getattr__",
        "object.__setattr__",
        "sys._current_exceptions",
        "sys._getframe",
        "sys._getframemodulename",
        "sys.excepthook",
        "sys.setprofile",
        "sys.settrace",
        "sys.unraisablehook",
        "time.sleep",
        "pickle.find_class",
    ]
)
# No event tells when these fork or call into C.
REFUSED_MODULES = frozenset({"_ctypes", "_posixsubprocess"})

# Kernel tables: asm/unistd_64.h and asm-generic/unistd.h. What a computing program has no use for.
_SAME_EVERYWHERE = (424, 425, 434, 435, 438)  # pidfd_send_signal io_uring_setup pidfd_open clone3 pidfd_getfd
# fmt: off
REFUSED_CALLS: dict[str, tuple[int, list[int]]] = {
    "x86_64": (0xC000003E, [
        29, 30, 41, 42, 43, 44, 49, 50, 53,  # shmget shmat socket connect accept sendto bind listen socketpair
        56, 57, 58, 59, 62, 64, 68,  # clone fork vfork execve kill semget msgget
        101, 109, 112, 129, 135, 160, 161,  # ptrace setpgid setsid rt_sigqueueinfo personality setrlimit chroot
        165, 166, 200, 234, 240, 248, 249, 250,  # mount umount2 tkill tgkill mq_open add_key request_key keyctl
        272, 297, 298, 302, 304, 308,  # unshare rt_tgsigqueueinfo perf_event_open prlimit64 open_by_handle_at setns
        310, 311, 312, 319, 321, 322, 323,  # process_vm_readv/writev kcmp memfd_create bpf execveat userfaultfd
    ]),
    "aarch64": (0xC00000B7, [
        39, 40, 51, 92, 97, 117, 129, 130, 131,  # umount2 mount chroot personality unshare ptrace kill tkill tgkill
        138, 154, 157, 164, 180, 186, 190,  # rt_sigqueueinfo setpgid setsid setrlimit mq_open msgget semget
        194, 196, 198, 199, 200, 201, 202, 203,  # shmget shmat socket socketpair bind listen accept connect
        206, 217, 218, 219, 220, 221, 240,  # sendto add_key request_key keyctl clone execve rt_tgsigqueueinfo
        241, 261, 265, 268,  # perf_event_open prlimit64 open_by_handle_at setns
        270, 271, 272, 279, 280, 281, 282,  # process_vm_readv/writev kcmp memfd_create bpf execveat userfaultfd
    ]),
}
# fmt: on


def serve(wall_seconds: float, cpu_seconds: int, memory_bytes: int, max_output_bytes: int, wanted: set[str]) -> None:
    """Read programs from stdin until it ends; run each in a fork of its own; answer on stdout."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    layers, filter_calls = _kernel_layers(wanted)
    layers.append("rlimits")
    layers.append("audit_hook")
    greeting = ",".join(layers).encode()
    _write(replies, struct.pack(">I", len(greeting)) + greeting)
    # Once here instead of once per fork: the compiler's own types (2 ms) and the codecs.
    exec(compile("x = [f'{n}' for n in (1, 2)]", "<warm-up>", "exec"), {})  # noqa: S102
    gc.freeze()
    while header := _read(requests, 4):
        program = _read(requests, struct.unpack(">I", header)[0])
        out_read, out_write = os.pipe()
        error_read, error_write = os.pipe()
        child = os.fork()
        if child == 0:
            _run(program, out_write, error_write, cpu_seconds, memory_bytes, filter_calls)
        os.close(out_write)
        os.close(error_write)
        status, verdict, out, error = _watch(child, out_read, error_read, wall_seconds, max_output_bytes)
        _write(replies, struct.pack(">iBII", status, verdict, len(out), len(error)) + out + error)


def _watch(child: int, out: int, error: int, wall_seconds: float, max_bytes: int) -> tuple[int, int, bytes, bytes]:
    """Collect what the child writes, until it ends, takes too long or says too much."""
    deadline = time.monotonic() + wall_seconds
    written = {out: bytearray(), error: bytearray()}
    poll = select.poll()
    waiting = {out, error}
    for pipe in waiting:
        poll.register(pipe, select.POLLIN)
    verdict = FINISHED
    while waiting and verdict == FINISHED:
        left = deadline - time.monotonic()
        if left <= 0:
            verdict = TIMED_OUT
            break
        for pipe, _ in poll.poll(left * 1000 + 1):
            piece = os.read(pipe, 65536)
            written[pipe] += piece
            if not piece:
                poll.unregister(pipe)
                waiting.discard(pipe)
            elif len(written[pipe]) > max_bytes:
                verdict = TOO_MUCH_OUTPUT
    # A program may close its outputs and go on: wait for its end as well.
    pause = 0.0002
    pid, status = os.waitpid(child, os.WNOHANG) if verdict == FINISHED else (0, 0)
    while pid == 0:
        if verdict == FINISHED and time.monotonic() >= deadline:
            verdict = TIMED_OUT
        if verdict != FINISHED:
            os.kill(child, signal.SIGKILL)
            pid, status = os.waitpid(child, 0)
        else:
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
            pid, status = os.waitpid(child, os.WNOHANG)
    os.close(out)
    os.close(error)
    return status, verdict, bytes(written[out][:max_bytes]), bytes(written[error][:max_bytes])


def _run(
    program: bytes,
    out: int,
    error: int,
    cpu_seconds: int,
    memory_bytes: int,
    filter_calls: Callable[[], None] | None,
) -> NoReturn:
    """In the fork: put on every chain, then run the program."""
    exit_code = 1
    try:
        os.dup2(out, 1)
        os.dup2(error, 2)
        os.closerange(3, 256)
        # They live as long as the process.
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        for what, soft, hard in (
            (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
            (resource.RLIMIT_AS, memory_bytes, memory_bytes),
            (resource.RLIMIT_FSIZE, 0, 0),
            (resource.RLIMIT_NOFILE, 24, 24),
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_NPROC, 0, 0),
        ):
            resource.setrlimit(what, (soft, hard))
        if filter_calls is not None:
            filter_calls()
        for name in [name for name in sys.modules if name.split(".")[0] in ("ctypes", "_ctypes", "resource", "gc")]:
            del sys.modules[name]
        sys.addaudithook(_hook(tuple(path + "/" for path in sys.path)))
        exit_code = _execute(program)
    finally:
        os._exit(exit_code)


def _execute(program: bytes) -> int:
    """Exit code of the program; an exception is told on stderr with the program's line."""
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})  # noqa: S102
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException as problem:  # noqa: BLE001
        line, trace = getattr(problem, "lineno", None), problem.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == "<program>":
                line = trace.tb_lineno
            trace = trace.tb_next
        print(f"line {line}: {type(problem).__name__}: {problem}"[:2000], file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code & 0xFF


def _hook(library: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    """The audit hook. All that it uses is bound as a default, out of reach of a program that rebinds globals."""

    def judge(
        event: str,
        args: tuple[Any, ...],
        harmless: frozenset[str] = HARMLESS_EVENTS,
        refused: frozenset[str] = REFUSED_MODULES,
        library: tuple[str, ...] = library,
        flags_that_write: int = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND,
        refusal: type[PermissionError] = PermissionError,
        text: type[str] = str,
        number: type[int] = int,
        kind: Callable[[object], type] = type,
    ) -> None:
        if event in harmless:
            return
        if event == "import" and args[0] not in refused:
            return
        if event == "open" and not args[2] & flags_that_write:
            path = args[0]
            if kind(path) is number and path <= 2:
                return
            if kind(path) is text and path.startswith(library) and "/../" not in path:
                return
        if event in ("os.listdir", "os.scandir") and kind(args[0]) is text:
            path = args[0] + "/"
            if path.startswith(library) and "/../" not in path:
                return
        raise refusal("refused in the sandbox: " + event)

    return judge


# ------------------------------------------------------------------------------------------------ kernel layers


def _kernel_layers(wanted: set[str]) -> tuple[list[str], Callable[[], None] | None]:
    """Namespaces and Landlock for this process from now on; returns what took hold and the seccomp switch."""
    if not sys.platform.startswith("linux") or not wanted:
        return [], None
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    layers = []
    if "namespaces" in wanted:
        layers += _namespaces(libc)
    no_new_privileges = libc.prctl(38, 1, 0, 0, 0) == 0
    if "landlock" in wanted and no_new_privileges and _landlock(libc):
        layers.append("landlock")
    calls = REFUSED_CALLS.get(os.uname().machine)
    filter_calls = None
    if "seccomp" in wanted and no_new_privileges and calls is not None:
        filter_calls = _seccomp(ctypes, libc, *calls)
        if _works_in_a_fork(filter_calls):
            layers.append("seccomp")
        else:
            filter_calls = None
    return layers, filter_calls


def _namespaces(libc: Any) -> list[str]:
    """Leave the network, the other processes and their shared memory; this process goes on as number 1 of its own."""
    user, ipc, processes, network = 0x10000000, 0x08000000, 0x20000000, 0x40000000
    if libc.unshare(user | ipc | processes | network) != 0 and libc.unshare(ipc | processes | network) != 0:
        return []
    inner = os.fork()
    if inner != 0:  # the first process of the namespace is a child; its death takes all others with it
        os.closerange(0, 256)
        _, status = os.waitpid(inner, 0)
        os._exit(0 if status == 0 else 1)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    return ["namespaces"]


def _landlock(libc: Any) -> bool:
    """From now on only the standard library and shared objects can be read, and nothing can be written."""
    abi = libc.syscall(444, None, 0, 1)
    if abi < 1:
        return False
    rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)  # linux/landlock.h: number of file rights by ABI
    handled = struct.pack("=QQQ", (1 << rights) - 1, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    ruleset = libc.syscall(444, handled, 8 if abi < 4 else 16 if abi < 6 else 24, 0)
    if ruleset < 0:
        return False
    shared = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", os.path.join(sys.base_prefix, "lib")]
    for path in [*sys.path, *shared, "/etc/ld.so.cache"]:
        if os.path.exists(path):
            place = os.open(path, os.O_PATH)
            read_file, read_folder = 1 << 2, 1 << 3
            allowed = read_file | (read_folder if os.path.isdir(path) else 0)
            libc.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, place), 0)
            os.close(place)
    done: bool = libc.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return done


def _seccomp(ctypes: Any, libc: Any, architecture: int, calls: Iterable[int]) -> Callable[[], None]:
    """A function that installs the filter in the process that calls it: the calls named give EPERM."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, RET|K
    refused = sorted({*calls, *_SAME_EVERYWHERE})
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, 0x80000000), (load, 0, 0, 0)]
    code.append((at_least, len(refused) + 1, 0, 0x40000000))  # the x32 twins of all calls
    code += [(equal, len(refused) - k, 0, call) for k, call in enumerate(refused)]
    code += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050001)]  # allow; errno EPERM
    body = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(body)))

    def install(keep: object = body) -> None:
        if libc.prctl(22, 2, header, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "seccomp")

    return install


def _works_in_a_fork(install: Callable[[], None]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            install()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


# ------------------------------------------------------------------------------------------------ pipes


def _read(pipe: int, size: int) -> bytes:
    """Exactly `size` bytes, or none at the end."""
    pieces = bytearray()
    while len(pieces) < size:
        piece = os.read(pipe, size - len(pieces))
        if not piece:
            return b""
        pieces += piece
    return bytes(pieces)


def _write(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]


if __name__ == "__main__":
    _wall, _cpu, _memory, _output, _layers = sys.argv[1:6]
    serve(float(_wall), int(_cpu), int(_memory), int(_output), set(_layers.split(",")) - {""})
