"""Linear classifiers on the same features, one per learning rate, trained together as in DINOv2.

Letters of shapes: B images, C classes, D values per feature, L learning rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK = 4096  # images at a time
MOMENTUM = 0.9


class Heads:
    """L heads with the same start, weights N(0, 0.01) and biases 0. SGD with momentum 0.9 and
    without weight decay trains each as if it were alone (main_lincls.py of
    facebookresearch/moco)."""

    def __init__(
        self, width: int, classes: int, rates: Sequence[float], device: torch.device, seed: int
    ) -> None:
        self.rates = tuple(rates)
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(classes, width, generator=generator) * 0.01
        self.weight = first.repeat(len(rates), 1).to(device)  # [L * C, D]
        self.bias = torch.zeros(len(rates) * classes, device=device)
        self._velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self._rate = torch.tensor(self.rates, device=device).repeat_interleave(classes)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, L, C] of features [B, D]."""
        return torch.addmm(self.bias, x, self.weight.T).view(len(x), len(self.rates), -1)

    def step(self, x: torch.Tensor, label: torch.Tensor, share: float = 1.0) -> None:
        """One step of SGD on cross entropy: features x [B, D], label int64 [B]. The rates are
        multiplied by `share`.

        The gradient of softmax regression has a closed form: (p - y) x^T / B.
        """
        p = self.logits(x).softmax(dim=2)
        hit = label[:, None, None].expand(-1, len(self.rates), 1)
        # p - y, where y is one-hot: subtract 1 at the label
        error = p.scatter_add_(2, hit, torch.full_like(hit, -1.0, dtype=p.dtype))
        error = error.flatten(1) / len(x)  # [B, L * C]
        v_weight, v_bias = self._velocity
        v_weight.mul_(MOMENTUM).addmm_(error.T, x)
        v_bias.mul_(MOMENTUM).add_(error.sum(dim=0))
        self.weight.addcmul_(v_weight, self._rate[:, None], value=-share)
        self.bias.addcmul_(v_bias, self._rate, value=-share)

    def predict(self, features: torch.Tensor) -> NDArray[np.int64]:
        """The five likeliest classes (fewer if there are fewer classes) by every head, likeliest
        first: int64 [L, N, 5] for features [N, D]."""
        parts = []
        for first in range(0, len(features), CHUNK):
            logits = self.logits(features[first : first + CHUNK].to(self.weight.device))
            parts.append(logits.topk(min(5, logits.shape[2]), dim=2).indices.cpu())
        return torch.cat(parts).transpose(0, 1).numpy()

    def finite(self) -> NDArray[np.bool_]:
        """For each head, True if all its weights are finite: bool [L]."""
        good = torch.isfinite(self.weight).all(dim=1) & torch.isfinite(self.bias)
        return good.view(len(self.rates), -1).all(dim=1).cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed training needs."""
        return {"weight": self.weight, "bias": self.bias, "velocity": list(self._velocity)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of state_dict."""
        self.weight.copy_(state["weight"])
        self.bias.copy_(state["bias"])
        for ours, theirs in zip(self._velocity, state["velocity"], strict=True):
            ours.copy_(theirs)


def choose(heads: Heads, features: torch.Tensor, labels: NDArray[np.int64]) -> list[float | None]:
    """Accuracy (0..1) of every head on held-out features [N, D]; None for a head that diverged."""
    right = (heads.predict(features)[:, :, 0] == labels).mean(axis=1)
    return [float(r) if good else None for r, good in zip(right, heads.finite(), strict=True)]
