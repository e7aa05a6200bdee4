"""Two processes that run a command together, as torchrun would start them; warm.py's process forks them."""

import os
import socket
import subprocess
from pathlib import Path
from typing import Any


class Pair:
    """:meth:`run` gives both a command, with the tiny network, and waits for both."""

    def __init__(self, warm: Any) -> None:
        self.warm = warm

    def run(
        self, folder: Path, *arguments: str, call: str | None = None, **environment: str
    ) -> "list[subprocess.CompletedProcess[str]]":
        """``call`` names a function of :mod:`pair_calls` instead of the command line."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        told = {**os.environ, **environment, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
        told |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "pair"}
        asked = {"folder": str(folder), "arguments": arguments, "call": call}
        ranks = [{"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(2)]
        return self.warm.together(*({**asked, "environment": {**told, **rank}} for rank in ranks))
