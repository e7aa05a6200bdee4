"""python -m lightning_cifake"""

import sys

from lightning_cifake.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
