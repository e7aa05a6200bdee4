"""What the libraries of `serve` cost to import, in processor time, and what Gradio would cost beside them.

python docs/serve/imports.py        needs gradio, which nothing else here does; writes docs/serve/imports.json
"""

import json
import subprocess
import sys
from pathlib import Path

from lightning_cifake.files import sealed_json, write_whole

OURS = ("fastapi", "uvicorn", "starlette.formparsers", "prometheus_client", "python_multipart")
PROGRAM = """
import importlib, json, sys, time
steps = []
for group in json.loads(sys.argv[1]):
    start = time.process_time()
    for name in group:
        importlib.import_module(name)
    steps.append(time.process_time() - start)
print(json.dumps([steps, sys.modules["gradio"].__version__]))
"""


def main() -> None:
    runs = []
    for _ in range(3):
        command = [sys.executable, "-c", PROGRAM, json.dumps([OURS, ["gradio"]])]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    ours, gradio = (sorted(steps[at] for steps, _ in runs)[1] for at in (0, 1))
    record = {
        "what": "processor seconds of an import, the middle one of three fresh processes",
        "modules": list(OURS),
        "ours": round(ours, 2),
        "gradio_beside_them": round(gradio, 2),
        "gradio": runs[0][1],
    }
    write_whole(Path(__file__).with_suffix(".json"), sealed_json(record))
    print(record)


if __name__ == "__main__":
    main()
