"""The example on Ray Serve: the same app, the same answers, from replicas on a local Ray."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from served import picture

from lightning_cifake import Detector

SCRIPT = Path(__file__).parents[2] / "examples" / "serve-ray" / "serve_ray.py"


@pytest.mark.long
def test_replicas_on_a_local_ray_answer_as_detector_does_and_refuse_as_serve_does(tmp_path: Path):
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("grpc_reflection") is None:
        pytest.skip("needs Ray Serve: pip install 'ray[serve]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(SCRIPT), "--replicas", "2", "--port", str(port)]
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    errors = (tmp_path / "errors").open("w")
    with (
        errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "answers at" in line, (tmp_path / "errors").read_text()[-3000:]
            files = {f"{seed}.png": picture(seed=seed) for seed in range(6)}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
                expected = Detector().predict(list(files.values()))
                for _ in range(4):  # of whichever replica
                    answers = client.post("/v1/predict", files=[("files", each) for each in files.items()]).json()
                    assert [each["path"] for each in answers["answers"]] == list(files)
                    found = [each["prob_real"] for each in answers["answers"]]
                    assert found == pytest.approx([each.prob_real for each in expected], abs=1e-6)
                assert client.get("/").status_code == 200 and client.get("/static/app.js").status_code == 200
                assert client.post("/v1/predict", content=b"x").status_code == 415
                assert client.get("/v1/model", headers={"host": "evil.example"}).status_code == 400
                assert client.get("/readyz").json() == {"status": "ready"}
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0
        finally:
            process.kill()


def test_ray_is_told_to_send_no_statistics_before_it_is_imported(tmp_path: Path):
    stub = "import os\nraise SystemExit(os.environ.get('RAY_USAGE_STATS_ENABLED', 'not said'))\n"
    (tmp_path / "ray.py").write_text(stub)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "1"}
    ended = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == "0"
