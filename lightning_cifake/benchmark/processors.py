"""What a benchmark ran on: the processor's instructions, the GPU, and the name of the record's folder."""

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VECTORS = {"avx512": ("avx512f",), "avx2": ("avx2",), "sve": ("sve",), "neon": ("asimd",)}  # the widest first
OTHERS = {
    "amx": ("amx_tile",),
    "bf16": ("avx512_bf16", "avx_ne_convert", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
    "vnni": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp"),
}
"""Our names of features -> the flags of Linux that say they are there."""


def features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The widest vectors of the processor, and what speeds up half precision and int8; empty where it is not told."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    flags = next((set(line.split()) for line in lines if line.lower().startswith(("flags", "features"))), set())

    def have(names: tuple[str, ...]) -> bool:
        return not flags.isdisjoint(names)

    widest = next((name for name, names in VECTORS.items() if have(names)), None)
    return [*([widest] if widest else []), *(name for name, names in OTHERS.items() if have(names))]


def machine_info(device: str) -> dict[str, Any]:
    """What a record says of its machine beside the processor's name and cores: ``features``, and ``gpu`` or None."""
    found: dict[str, Any] = {"features": features(), "gpu": None}
    if device == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return found


def title(record: Mapping[str, Any]) -> str:
    """``AMD EPYC, 2 cores (AVX512, bf16, VNNI)``, or the GPU's name."""
    machine = record["machine"]
    if machine["gpu"]:
        return str(machine["gpu"]["name"])
    told = ", ".join(name if name in ("bf16", "fp16") else name.upper() for name in machine["features"])
    count = machine["cores"]
    cores = f"{count} core{'' if count == 1 else 's'}"
    return f"{machine['processor']}, {cores}" + (f" ({told})" if told else "")


def folder_name(record: Mapping[str, Any]) -> str:
    """``amd-epyc-2-cores-avx2``: of every machine and precision another one."""
    machine, precision = record["machine"], record["settings"]["precision"]
    parts = [machine["gpu"]["name"]] if machine["gpu"] else [
        machine["processor"] or platform.machine(), f"{machine['cores']} cores", *machine["features"]
    ]  # fmt: skip
    if precision != "32-true":
        parts.append(precision)
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-") or "unknown"
