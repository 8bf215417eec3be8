"""The network: backbone, neck, heads, and the meta-selection net for training."""

from __future__ import annotations

from afdet_train.model.network import AnchorFreeDetector, HeadOutputs, build_network

__all__ = ["AnchorFreeDetector", "HeadOutputs", "build_network"]
