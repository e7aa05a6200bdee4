"""How a command ends: what an exception means to its user, in one line and an exit code."""

from lightning_cifake.console import drop_output, is_of_output, say
from lightning_cifake.errors import UserError
from lightning_cifake.signals import EndedBySignal
from lightning_cifake.text import printable, reason_of

MISTAKE, BROKEN_PIPE, SIGNAL = 2, 141, 128  # SIGNAL: plus its number, as shells count


def ended_by(signal: EndedBySignal) -> int:
    """Says which signal it was, and returns the exit code."""
    say(str(signal))
    return SIGNAL + signal.signum


def failed_with(error: Exception) -> int:
    """One line for what a user can put right, and the exit code; anything else is raised again."""
    if isinstance(error, UserError):
        if error.reported_by_rank_zero:  # and 0: Lightning kills the first process when another one fails
            return 0
        say(f"error: {error}")
        return MISTAKE
    if isinstance(error, BrokenPipeError):  # `predict ... | head`
        drop_output()
        return BROKEN_PIPE
    if isinstance(error, OSError) and is_of_output(error):
        drop_output()
        say(f"error: cannot write to standard output: {reason_of(error)}")
        return MISTAKE
    if isinstance(error, OSError) and error.strerror:  # a state of the system: a disk, a limit, a right
        say(f"error: {reason_of(error)}" + ("" if error.filename is None else f": {printable(error.filename)}"))
        return MISTAKE
    raise error
