"""Scores more images than one machine should hold: Ray Data over lightning_cifake.Detector, Parquet out.

    python examples/ray/score.py --model best --images folder --output scores

A row of the dataset is a shard, not an image: a worker reads a shard's images, asks the model and writes one Parquet
file. Ray's own read_binary_files reads from the same filesystems, but one missing file ends its job.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from lightning_cifake import Detector, Prediction, UserError
from lightning_cifake.data.image_file import MAX_FILE_BYTES
from lightning_cifake.data.image_names import is_image_name
from lightning_cifake.deploy.inputs import find_images
from lightning_cifake.deploy.load import Loaded
from lightning_cifake.files import sha256_of
from lightning_cifake.machine import cores

MANIFEST = "_manifest.json"  # readers of Parquet folders pass by what begins with _ or .
READERS = 16  # requests at once, of each worker, where images come over a network
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "verdict": pa.string(),
        "prob_real": pa.float32(),  # as the model says it: nothing is rounded
        "warning": pa.string(),
        "error": pa.string(),
    }
)

EPILOG = """examples:
  python examples/ray/score.py --model best --images folder 'more/*.png' --output scores
  find "$PWD" -name '*.jpg' > all.txt
  python examples/ray/score.py --model best --images all.txt --output scores
  python examples/ray/score.py --model best --images s3://bucket/images \\
      --output s3://bucket/scores --address auto --shard_size 50000

reading:  pandas.read_parquet("scores") has the columns path, verdict, prob_real, warning, error
resuming: the same command again; parts that are there stay, and only the images of the others are read
"""


class Scorer:
    """What a worker keeps for the whole job: one model with one thread, so that N workers use N cores."""

    def __init__(self, model: Any, output: str, batch_size: int) -> None:
        import ray

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(ray.get(model))  # sent along: no machine can have another one under the same name
            self.detector = Detector(path, threads=1)
        self.output = output
        self.batch_size = batch_size
        self.filesystems: dict[str, tuple[fs.FileSystem, str]] = {}

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        paths = [os.fsdecode(path) for path in shard["paths"].split(b"\0")]
        try:
            answers = self.detector.predict(self.images(paths), batch_size=self.batch_size)
            write(self.output, part_name(shard["number"]), as_table(paths, answers))
        except (OSError, UserError) as error:  # the disk is full: a row, as Ray would print its own traceback first
            return {"images": 0, "errors": 0, "failure": one_line(error)}
        return {"images": len(paths), "errors": sum(answer.error is not None for answer in answers), "failure": ""}

    def images(self, paths: list[str]) -> Iterator[Path | bytes | Loaded]:
        """In order; a batch is on its way while the model has the one before."""
        with ThreadPoolExecutor(READERS) as pool:
            batches: list[Iterable[Path | bytes | Loaded]] = []
            for start in range(0, len(paths), self.batch_size):
                batches.append(pool.map(self.fetch, paths[start : start + self.batch_size]))
                if len(batches) == 2:
                    yield from batches.pop(0)
            yield from batches.pop()

    def fetch(self, path: str) -> Path | bytes | Loaded:
        """A local file is left to Detector; of another its bytes, or why there are none."""
        if "://" not in path:
            return Path(path)
        root, key = split(path)
        try:
            if root not in self.filesystems:  # to make one asks the service
                self.filesystems[root] = locate(root)
            filesystem, top = self.filesystems[root]
            with filesystem.open_input_stream(f"{top}/{key}", compression=None) as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except (OSError, UserError) as error:
            return Loaded(path, None, one_line(error))
        return content if len(content) <= MAX_FILE_BYTES else Loaded(path, None, f"more than {MAX_FILE_BYTES:,} bytes")


def as_table(paths: list[str], answers: list[Prediction]) -> pa.Table:
    rows = [{**asdict(answer), "path": printable(path)} for path, answer in zip(paths, answers, strict=True)]
    return pa.Table.from_pylist(rows, SCHEMA)


def one_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def printable(path: str) -> str:
    """A name need not be UTF-8, but Parquet's text is: \\xff stands for such a byte."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def split(address: str) -> tuple[str, str]:
    """s3://bucket/a b.jpg -> s3://bucket/, a b.jpg"""
    scheme, _, rest = address.partition("://")
    host, _, key = rest.partition("/")
    return f"{scheme}://{host}/", key


def locate(address: str) -> tuple[fs.FileSystem, str]:
    """A path, or an address of any filesystem that pyarrow knows -> the filesystem, and the path there."""
    if "://" not in address:
        return fs.LocalFileSystem(), Path(address).absolute().as_posix()
    root, key = split(address)
    try:
        # without the key: pyarrow would refuse a space in it, and take %20 for one
        filesystem, top = fs.FileSystem.from_uri(root)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot reach {address}: {one_line(error)}") from error
    return filesystem, f"{top.rstrip('/')}/{key}".rstrip("/")


def listing(output: str) -> set[str]:
    filesystem, folder = locate(output)
    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return {each.base_name for each in found if each.type == fs.FileType.File}


def write(output: str, name: str, content: pa.Table | bytes) -> None:
    """A file that has its name once it is whole."""
    filesystem, folder = locate(output)
    # never the same name twice: Ray runs a lost worker's shard again, and the worker may live
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        with filesystem.open_output_stream(temporary) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                pq.write_table(content, file, compression="zstd")
        filesystem.move(temporary, f"{folder}/{name}")
    except BaseException:
        with suppress(OSError):
            filesystem.delete_file(temporary)
        raise


def claim(output: str, manifest: dict[str, Any]) -> set[str]:
    """Makes the folder this run's, and returns the parts that are in it.

    Raises:
        UserError: it is another run's: another model, list or shard size.
    """
    filesystem, folder = locate(output)
    filesystem.create_dir(folder)
    there = listing(output)
    if MANIFEST in there:
        with filesystem.open_input_stream(f"{folder}/{MANIFEST}") as file:
            before = json.loads(file.read())
        for fact, value in manifest.items():
            if before.get(fact) != value:
                raise UserError(
                    f"{output} holds another run, of {fact} {before.get(fact)}, and this one's is {value}: expected "
                    "the same, or another --output"
                )
    else:
        write(output, MANIFEST, json.dumps(manifest, indent=2).encode())
    return {name for name in there if name.startswith("part-")}


def find(given: list[str]) -> Iterator[str]:
    """Absolute paths, as workers run elsewhere, and addresses.

    Raises:
        UserError: something given does not exist, or has no images.
    """
    for each in given:
        if "://" in each:
            yield from below_address(each)
        elif each.endswith(".txt") and Path(each).is_file():
            lines = Path(each).read_text("utf-8", "surrogateescape").split("\n")
            yield from (line if "://" in line else str(Path(line).absolute()) for line in lines if line.strip())
        else:
            yield from (str(path.absolute()) for path in find_images([each]))


def below_address(address: str) -> Iterator[str]:
    filesystem, top = locate(address)
    kind = filesystem.get_file_info(top).type
    if kind == fs.FileType.File:
        yield address
    if kind == fs.FileType.NotFound:
        raise UserError(f"{address} does not exist")
    if kind == fs.FileType.Directory:
        for found in filesystem.get_file_info(fs.FileSelector(top, recursive=True)):
            if found.is_file and is_image_name(found.path):
                yield address.rstrip("/") + found.path.removeprefix(top)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Asks an exported model about any number of images, on all cores of this machine or of a Ray "
        "cluster. The images, sorted by path, are cut into shards; each becomes one Parquet file with a row an image. "
        "An image that cannot be read is a row with its error. Stop it when you like and repeat the command.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="a file that export wrote, or the name of a released model")
    parser.add_argument(
        "--images",
        nargs="+",
        required=True,
        metavar="IMAGES",
        help="folders (searched through), globs in quotes, images, addresses as s3://bucket/folder, or a .txt of paths "
        "and addresses, one a line",
    )
    parser.add_argument("--output", required=True, help="a folder, or an address, that all workers can write to")
    parser.add_argument("--shard_size", type=int, default=10_000, help="images a Parquet file (default: 10000)")
    parser.add_argument("--batch_size", type=int, default=32, help="images at once through the model (default: 32)")
    parser.add_argument("--concurrency", type=int, help="workers, each with one core (default: as many as cores)")
    parser.add_argument("--address", help="a running Ray cluster, `auto` on its head (default: this machine alone)")
    options = parser.parse_args(arguments)
    for name in ("shard_size", "batch_size", "concurrency"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name}: expected at least 1, got {value}")
    return options


def score(options: argparse.Namespace) -> str:
    """Writes the parts that are missing; what to say at the end."""
    begun = time.monotonic()
    # a bad one is one line here and not a worker's traceback
    options.model = Detector(options.model, threads=1).path
    paths = sorted({os.fsencode(path) for path in find(options.images)})
    if not paths:
        raise UserError(f"no images in {' '.join(options.images)}")
    shards = [
        {"number": at // options.shard_size, "paths": b"\0".join(paths[at : at + options.shard_size])}
        for at in range(0, len(paths), options.shard_size)
    ]
    manifest = {
        "model_sha256": sha256_of(options.model),
        "list_sha256": hashlib.sha256(b"\0".join(paths)).hexdigest(),
        "images": len(paths),
        "shard_size": options.shard_size,
    }
    there = claim(options.output, manifest)
    missing = [shard for shard in shards if part_name(shard["number"]) not in there]
    if not missing:
        return f"nothing to do: all {len(shards):,} parts of {len(paths):,} images are in {options.output}"
    images, errors = run(options, missing)
    if not {part_name(shard["number"]) for shard in shards} <= listing(options.output):
        raise UserError(
            f"workers wrote parts that are not in {options.output}: expected a folder that all of them share"
        )
    seconds = time.monotonic() - begun
    return (
        f"{images:,} images in {seconds:.1f} s ({images / seconds:,.0f} images/s), {errors:,} rows with an error; "
        f"{len(missing):,} parts made, {len(shards):,} in {options.output}"
    )


def run(options: argparse.Namespace, shards: list[dict[str, Any]]) -> tuple[int, int]:
    """Scores shards on Ray; how many images, and how many of them with an error."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it when it is imported
    import ray

    if options.address:
        where = {"address": options.address}
    else:  # "local", or it would take a cluster that happens to run here
        where = {"address": "local", "num_cpus": options.concurrency or cores(), "include_dashboard": False}
    ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_rich_progress_bars, context.use_ray_tqdm = True, False  # else it says on every run that there are
    workers = options.concurrency or int(ray.cluster_resources()["CPU"])
    try:
        done = ray.data.from_items(shards, override_num_blocks=len(shards)).map(
            Scorer,
            fn_constructor_args=(ray.put(options.model.read_bytes()), options.output, options.batch_size),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(shards))),
        )
        images = errors = 0
        for row in done.iter_rows():
            if row["failure"]:
                raise UserError(f"{row['failure']}; the parts that are there are whole")
            images, errors = images + row["images"], errors + row["errors"]
    finally:
        ray.shutdown()
    return images, errors


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        print(score(options))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the parts that are there are whole, and the same command resumes from them", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
