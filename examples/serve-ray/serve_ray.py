"""The same page and HTTP API as `serve`, on Ray Serve: replicas on one machine or many, behind one address.

python examples/serve-ray/serve_ray.py --replicas 4
"""

import argparse
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent on; Ray reads it when it is imported

import ray
from ray import serve

from lightning_cifake.serve.app import create_app
from lightning_cifake.serve.settings import Limits, Settings, read_token
from lightning_cifake.shipped import model_file

NAME = "lightning_cifake"
SPARE = 2  # requests a replica is handed beyond those whose images fill its queue: they are refused there, at once


def deployment(settings: Settings, replicas: int, cores: int) -> Any:
    """The app as Ray Serve runs it: each replica opens the model for itself."""

    def build() -> Callable[..., Any]:  # in the replica: neither threads nor an open model can be sent there
        return create_app(settings)

    wrapped = serve.deployment(
        name="answers",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cores},
        max_ongoing_requests=settings.limits.queue + SPARE,  # Ray's own queue would hide that the replica's is full
        graceful_shutdown_timeout_s=settings.limits.body_seconds + settings.limits.answer_seconds,
        health_check_period_s=5,
    )
    return wrapped(serve.ingress(build)()).bind()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", metavar="NAME|FILE", help="as serve takes it; a file lies at the same place everywhere"
    )
    parser.add_argument("--replicas", type=int, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument("--cores", type=int, default=1, metavar="N", help="of each replica (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: %(default)s")
    parser.add_argument("--address", metavar="HOST:PORT", help="a Ray that runs already (default: one of its own)")
    parser.add_argument("--token_file", type=Path, metavar="FILE", help="as serve takes it")
    parser.add_argument("--allowed_hosts", nargs="+", default=[], metavar="NAME", help="as serve takes it")
    options = parser.parse_args(arguments)
    settings = Settings(
        model=options.model if options.model is None else str(model_file(options.model).absolute()),
        host=options.host,
        port=options.port,
        token=None if options.token_file is None else read_token(options.token_file),
        allowed_hosts=options.allowed_hosts,
        workers=options.cores,
        log="none",
        limits=Limits(),
    )
    where = {"address": options.address} if options.address else {"address": "local", "include_dashboard": False}
    ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
    try:
        serve.start(http_options={"host": options.host, "port": options.port})
        serve.run(deployment(settings, options.replicas, options.cores), name=NAME, route_prefix="/")
        print(f"answers at http://{options.host}:{options.port} (Ctrl-C stops it)", flush=True)
        wait()
    except KeyboardInterrupt:
        print("stopping: what was accepted is answered", flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()


def wait() -> None:
    """Until a signal comes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.pause()


if __name__ == "__main__":
    main()
