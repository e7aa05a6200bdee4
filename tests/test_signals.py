"""A signal ends a command with its own exit code, in one line, whatever stands between it and the top."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from lightning_cifake.commands import main as cli
from lightning_cifake.signals import EndedBySignal, ending_on_signals


def run_main(body: str) -> "subprocess.CompletedProcess[str]":
    """main() with a command that does ``body``, in which ``send(name)`` sends this process a signal."""
    script = f"""
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from lightning_cifake.commands import main as cli
def send(name):
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(0)
def dispatch(arguments):
{textwrap.indent(textwrap.dedent(body), "    ")}
    return 0
cli._dispatch = dispatch
sys.exit(cli.main([]))
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


BODIES = {
    "plain": "send({name!r})",
    "cleaned up": "try:\n    send({name!r})\nfinally:\n    print('cleaned')",
    "swallowed": "try:\n    send({name!r})\nexcept BaseException:\n    pass",
    "in a finalizer": "class F:\n    def __del__(self): send({name!r})\nF()",
    "taken for another error": "try:\n    send({name!r})\nexcept BaseException:\n    raise RuntimeError('worker died')",
    "taken for an end": "try:\n    send({name!r})\nexcept BaseException:\n    sys.exit(1)",
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_is_one_line_and_its_own_exit_code(body: str, name: str, code: int) -> None:
    done = run_main(BODIES[body].format(name=name))
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == f"stopped by {name}"
    if body != "in a finalizer":  # Python tells of an exception that nobody can catch there
        assert len(done.stderr.splitlines()) == 1
    assert ("cleaned" in done.stdout) == (body == "cleaned up")


def test_the_same_signal_at_once_is_one_and_later_it_kills() -> None:
    done = run_main(
        "try:\n    send('SIGTERM')\nfinally:\n    send('SIGTERM'); print('cleaned', flush=True)\n"
        "    time.sleep(0.6); send('SIGTERM'); print('still here', flush=True)"
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "cleaned\n")


def test_a_forked_child_dies_of_it_as_any_process() -> None:
    done = run_main(
        "child = os.fork()\nif child == 0:\n    send('SIGTERM'); os._exit(9)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert (done.returncode, done.stdout) == (0, f"{-signal.SIGTERM}\n")


def test_an_ignored_signal_stays_ignored_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with ending_on_signals() as received:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            with pytest.raises(EndedBySignal):
                os.kill(os.getpid(), signal.SIGTERM)
            assert received.signum == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == terminate
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_library_raises_for_ctrl_c_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert cli.main([]) == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"
