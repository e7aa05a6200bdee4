"""Which precision pays on this machine: fp16 on a T4, bf16 where the hardware has it, float32 elsewhere."""

import torch

HALF, BRAIN, FULL = "16-mixed", "bf16-mixed", "32-true"


def best_precision(accelerator: str = "auto") -> str:
    """Lightning's name of the precision to train in, for the accelerator that ``Trainer(accelerator=...)`` would take.

    GPUs from compute capability 8.0 compute in bf16; older ones (the T4 is 7.5) emulate it slowly and get fp16 with a
    gradient scaler. CPUs get bf16 where they have the instructions for it (AVX512-BF16 or AMX).
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return BRAIN if torch.cuda.is_bf16_supported(including_emulation=False) else HALF
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return FULL
    return BRAIN if cpu_has_bf16() else FULL


def names_gpu(accelerator: object) -> bool:
    """Whether ``Trainer(accelerator=...)`` would take another device than the processor, or says that it should."""
    if accelerator in ("auto", None):
        return torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator != "cpu"


def cpu_has_bf16() -> bool:
    """Whether the processor has instructions for bf16 products."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
