"""The standard streams, whatever the console takes: no name of a file can end a command."""

import io
import os
import sys


def prepare_streams() -> None:
    """Makes standard output and error take any text, and be there at all.

    A character that the console's encoding lacks is printed as ``\\u4e2d`` (and a byte of a name that is not UTF-8 as
    ``\\udc80``) where Python would raise. A stream that the process was started without (``>&-``, a service, pythonw)
    is replaced by one that goes nowhere. Idempotent.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - for the process's life
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
