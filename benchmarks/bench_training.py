"""Training step: images/s, compared with EfficientDet-D0 of effdet, and the cost of targets.

Both use the same device, batch, size, and synthetic pictures and boxes; times are medians of
interleaved steps. A step is forward, loss, backward and AdamW in FP32 (``--bf16`` on a GPU).

A second table has a step with frozen norms and first stages, as short runs on a CPU have them: the
norms as modules of their own, and folded into the convolutions before them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from afdet_train.config import parse_recipe
from afdet_train.losses import DetectionLoss, flatten_heads
from afdet_train.model.network import STRIDES, TrainingNetwork, build_network
from afdet_train.optimise import fold_norms, freeze, train_mode
from afdet_train.samples.boxes import Boxes
from afdet_train.targets import PointGrid, assign, find_positives
from torch import Tensor

from trt_afdet.cli import ui

SIZE = 512
CLASSES = 20


def random_truth(batch: int, per_image: int, device: torch.device) -> Boxes:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(batch, per_image, 2, generator=generator) * (SIZE - 64)
    side = 16 + torch.rand(batch, per_image, 2, generator=generator) * 200
    boxes = torch.cat([corner, (corner + side).clamp(max=SIZE)], dim=2)
    labels = torch.randint(0, CLASSES, (batch, per_image), generator=generator)
    return Boxes.collate([*map(Boxes.of_image, boxes, labels)]).to(device)


def synchronised(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def our_step(
    batch: int, device: torch.device, bf16: bool, *, frozen: bool = False, fold: bool = False
) -> Callable[[], None]:
    freezing = {"backbone_stages": 2, "batch_norm": "backbone"} if frozen else {}
    recipe = parse_recipe(
        {
            "model": {
                "classes": [f"c{i}" for i in range(CLASSES)],
                "backbone": {"weights": "none"},
            },
            "freeze": freezing,
        },
        "bench",
    )
    network = build_network(recipe.model).to(device).to(memory_format=torch.channels_last)
    freeze(network, recipe.freeze)
    train_mode(network, recipe.freeze)
    if fold:
        fold_norms(network, recipe.freeze)
    training = TrainingNetwork(network)
    learnt = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, 1e-4)
    loss = DetectionLoss(PointGrid(SIZE, SIZE, STRIDES), recipe.model.targets, recipe.model.loss)
    images = torch.randn(batch, 3, SIZE, SIZE, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    truth = random_truth(batch, 8, device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs, levels = training(images, truth.rois())
        loss(outputs, levels, truth).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def effdet_step(batch: int, device: torch.device, bf16: bool) -> Callable[[], None] | None:
    try:
        from effdet import DetBenchTrain, EfficientDet, get_efficientdet_config
    except ImportError:
        return None
    config = get_efficientdet_config("efficientdet_d0")
    config.num_classes = CLASSES
    config.image_size = (SIZE, SIZE)
    net = EfficientDet(config, pretrained_backbone=False)
    bench = DetBenchTrain(net, config).to(device).to(memory_format=torch.channels_last)
    bench.train()
    optimizer = torch.optim.AdamW(bench.parameters(), 1e-4)
    images = torch.randn(batch, 3, SIZE, SIZE, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    truth = random_truth(batch, 8, device)
    # effdet expects y first, and classes from 1.
    boxes = [b[:, [1, 0, 3, 2]] for b in truth.xyxy.split([8] * batch)]
    labels = list((truth.labels + 1).split([8] * batch))
    target = {"bbox": boxes, "cls": labels}

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss: Tensor = bench(images, target)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def target_seconds(batch: int, device: torch.device) -> float:
    """Median time of target assignment and weights: positives, level choice, overlap, weights."""
    recipe = parse_recipe({"model": {"classes": [f"c{i}" for i in range(CLASSES)]}}, "bench")
    config = recipe.model.targets
    grid = PointGrid(SIZE, SIZE, STRIDES)
    loss = DetectionLoss(grid, config, recipe.model.loss)
    truth = random_truth(batch, 8, device)
    logits = flatten_heads(
        [torch.randn(batch, CLASSES, SIZE // s, SIZE // s, device=device) for s in STRIDES]
    )
    distances = flatten_heads(
        [torch.rand(batch, 4, SIZE // s, SIZE // s, device=device) for s in STRIDES]
    )
    weights = torch.rand(len(truth), len(STRIDES), device=device).softmax(dim=1)
    times = []
    for _ in range(12):
        start = synchronised(device)
        found = find_positives(truth, grid, config)
        with torch.no_grad():
            selected = loss.select_levels_by_loss(logits, distances, truth, found)
        assign(found, truth, grid, config, selected, weights)
        times.append(synchronised(device) - start)
    # The median excludes the first calls, which warm up caches.
    return statistics.median(times[2:])


def compare(
    title: str,
    steps: dict[str, Callable[[], None]],
    rounds: int,
    batch: int,
    device: torch.device,
) -> float:
    """Times the steps in turns and prints a table; returns the median seconds of the first."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # warm-up
    for _ in ui.progress(range(rounds), rounds, "training steps"):
        for name, step in steps.items():
            start = synchronised(device)
            step()
            times[name].append(synchronised(device) - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    rows = [
        [name, f"{1e3 * t:.0f}", f"{batch / t:.2f}", f"{t / first:.2f}"]
        for name, t in medians.items()
    ]
    ui.table(title, ["network", "ms", "images/s", "time / first"], rows)
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=0, help="default: 4 on a CPU, 32 on a GPU")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = args.batch or (32 if device.type == "cuda" else 4)
    torch.manual_seed(0)
    frozen = {
        name: our_step(batch, device, args.bf16, frozen=True, fold=fold)
        for name, fold in (("norms folded", True), ("norms apart", False))
    }
    steps = {"trt-afdet, EfficientNet-B0": our_step(batch, device, args.bf16)}
    peer = effdet_step(batch, device, args.bf16)
    if peer is None:
        print("effdet is not installed: make bench-peers")
    else:
        steps["effdet, EfficientDet-D0"] = peer
    what = f"batch {batch}, {SIZE}x{SIZE}, {device.type}"
    ours = compare(f"training step, {what}", steps, args.steps, batch, device)
    compare(f"two stages and all norms frozen, {what}", frozen, args.steps, batch, device)
    seconds = target_seconds(32, device)
    step_32 = ours * 32 / batch
    print(
        f"targets and weights, batch 32: {1e3 * seconds:.1f} ms, "
        f"{100 * seconds / step_32:.2f} % of the step ({1e3 * step_32:.0f} ms)"
    )


if __name__ == "__main__":
    main()
