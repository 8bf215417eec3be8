"""The training run: the training loop and its functions."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from afdet_train import checkpoint as checkpoints
from afdet_train.checkpoint import Checkpoint
from afdet_train.config import Recipe
from afdet_train.distributed import Ranks, process_group
from afdet_train.evaluate import evaluate_network
from afdet_train.losses import DetectionLoss, LossParts
from afdet_train.model.network import (
    AnchorFreeDetector,
    TrainingNetwork,
    build_network,
    count_parameters,
    model_spec,
)
from afdet_train.optimise import (
    WeightAverage,
    build_optimizer,
    fold_norms,
    freeze,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    train_mode,
)
from afdet_train.report import Report, plot_curves, read_metrics
from afdet_train.samples.stream import Batch, TrainingPictures, batches
from afdet_train.targets import PointGrid
from trt_afdet.cli import ui
from trt_afdet.datasets import Dataset, open_dataset
from trt_afdet.datasets import Report as DataReport
from trt_afdet.datasets.convert import note_shared
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.spec import ModelSpec

#: The run warns of dying ReLUs above this share of positives with a zero box output.
DEAD_SHARE_WARNING = 0.5


@dataclass
class Run:
    """The state that training changes."""

    recipe: Recipe
    spec: ModelSpec
    ranks: Ranks
    detector: AnchorFreeDetector
    network: nn.Module
    loss: DetectionLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: WeightAverage | None
    iterations_per_epoch: int
    iteration: int = 0
    best: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.recipe.train.epochs * self.iterations_per_epoch

    @property
    def epoch(self) -> float:
        return self.iteration / self.iterations_per_epoch

    def to_checkpoint(self, *, resumable: bool) -> Checkpoint:
        progress: dict[str, Any] = {
            "iteration": self.iteration,
            "epoch": round(self.epoch, 3),
            "best": self.best,
        }
        if not resumable:
            weights = self.average.tensors if self.average else self.detector.state_dict()
            return Checkpoint(self.recipe, {"model": weights}, progress)
        tensors = {
            "model": self.detector.state_dict(),
            "optim": optimizer_tensors(self.optimizer),
        }
        if self.average:
            tensors["ema"] = self.average.tensors
        if self.scaler.is_enabled():
            progress["scaler"] = self.scaler.state_dict()
        return Checkpoint(self.recipe, tensors, progress)

    def restore(self, saved: Checkpoint, source: str) -> None:
        checkpoints.load_weights(self.detector, saved.tensors["model"], source)
        restore_optimizer(self.optimizer, saved.tensors.get("optim", {}))
        if self.average and "ema" in saved.tensors:
            self.average.load(saved.tensors["ema"])
        if self.scaler.is_enabled() and "scaler" in saved.progress:
            self.scaler.load_state_dict(saved.progress["scaler"])
        self.iteration = int(saved.progress["iteration"])
        self.best = dict(saved.progress["best"])


def with_classes(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with the class names of the data, which was opened with the recipe's names."""
    names = tuple(dataset.class_names)
    model = recipe.model.model_copy(update={"classes": names})
    return recipe.model_copy(update={"model": model})


def setup(recipe: Recipe, ranks: Ranks, pictures: int) -> Run:
    """Builds the network, the optimiser and the other state, before anything is restored."""
    if recipe.train.batch_size % ranks.world:
        raise InvalidValueError(
            "train.batch_size must be a multiple of the number of processes",
            got=f"{recipe.train.batch_size} on {ranks.world}",
        )
    torch.manual_seed(recipe.train.seed)
    detector = build_network(recipe.model, load_weights=not recipe.train.start_from)
    if recipe.train.start_from:
        source = Path(recipe.train.start_from)
        checkpoints.load_weights(detector, checkpoints.load(source).weights, str(source))
    detector.to(ranks.device)
    if recipe.train.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze(detector, recipe.freeze)
    network: nn.Module = TrainingNetwork(detector)
    if ranks.world > 1 and ranks.device.type == "cuda" and recipe.freeze.batch_norm != "all":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    fold_norms(detector, recipe.freeze)
    if ranks.world > 1:
        network = DistributedDataParallel(network, broadcast_buffers=False)
    spec = model_spec(recipe.model)
    grid = PointGrid(spec.height, spec.width, spec.strides, spec.regression_scale)
    return Run(
        recipe=recipe,
        spec=spec,
        ranks=ranks,
        detector=detector,
        network=network,
        loss=DetectionLoss(grid, recipe.model.targets, recipe.model.loss),
        optimizer=build_optimizer(detector, recipe.optim),
        scaler=torch.amp.GradScaler(ranks.device.type, enabled=recipe.train.precision == "fp16"),
        average=WeightAverage(detector, recipe.optim.ema_decay) if recipe.optim.ema_decay else None,
        iterations_per_epoch=recipe.train.total_iterations(pictures) // recipe.train.epochs,
    )


def normalise_on_device(images: Tensor, spec: ModelSpec, device: torch.device) -> Tensor:
    """uint8 [N, H, W, 3] in the spec's order -> float32 [N, 3, H, W], as preprocess.normalise.

    The result has channels-last strides, like the pictures.
    """
    mean = torch.tensor(spec.mean, device=device).mul_(255)
    std = torch.tensor(spec.std, device=device).mul_(255)
    x = images.to(device, non_blocking=True).float()
    return x.sub_(mean).div_(std).permute(0, 3, 1, 2)


def _autocast(run: Run) -> AbstractContextManager[Any]:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(run.recipe.train.precision)
    if kind is None:
        return nullcontext()
    return torch.autocast(run.ranks.device.type, dtype=kind)


def train_step(run: Run, batch: Batch) -> tuple[LossParts, float]:
    """One optimiser step.

    Returns:
        The losses, and the gradient's norm before clipping.

    Raises:
        RunError: If the loss is not finite; it names the batch's pictures. Weights are unchanged.
    """
    config = run.recipe
    device = run.ranks.device
    boxes = batch.boxes.to(device)
    images = normalise_on_device(batch.images, run.spec, device)
    if not config.train.channels_last:
        images = images.contiguous()
    with _autocast(run):
        outputs, level_logits = run.network(images, boxes.rois())
    soft = run.epoch >= config.model.targets.ofs_epochs
    parts = run.loss(outputs, level_logits, boxes, batch.ignored.to(device), soft=soft)
    if run.ranks.any(not bool(torch.isfinite(parts.total))):
        raise RunError(
            f"the loss is not finite at iteration {run.iteration}",
            got=f"batch {', '.join(batch.names)}",
            hint="look at these pictures, lower optim.lr, or use train.precision=fp32",
        )
    rate = learning_rate(config.optim, run.iteration, run.total)
    set_learning_rate(run.optimizer, rate)
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(parts.total).backward()
    run.scaler.unscale_(run.optimizer)
    norm = nn.utils.clip_grad_norm_(
        [p for p in run.detector.parameters() if p.grad is not None],
        config.optim.grad_clip or math.inf,
    )
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.iteration += 1
    if run.average:
        run.average.update(run.detector, run.iteration)
    return parts, float(norm)


@contextmanager
def _averaged(run: Run) -> Iterator[None]:
    """Within the context, the detector holds the averaged weights, if the run averages."""
    if run.average is None:
        yield
        return
    own = {n: t.detach().clone() for n, t in run.detector.state_dict().items()}
    run.detector.load_state_dict(run.average.tensors)
    try:
        yield
    finally:
        run.detector.load_state_dict(own)


def _evaluate(run: Run, truth: Dataset, report: Report) -> dict[str, float]:
    run.detector.eval()
    with _averaged(run):
        result = evaluate_network(
            run.detector,
            run.spec.replace(score_threshold=run.recipe.train.eval_threshold),
            truth,
            run.ranks.device,
            progress=report.iterate,
        )
    train_mode(run.detector, run.recipe.freeze)
    return {"ap": result.ap, "ap50": result.ap50}


def _save(run: Run, out: Path, *, best: bool) -> None:
    if best:
        checkpoints.save(out / "best.safetensors", run.to_checkpoint(resumable=False))
    checkpoints.save(out / "last.safetensors", run.to_checkpoint(resumable=True))


def open_data(
    recipe: Recipe,
    path: str,
    split: str | None,
    *,
    strict: bool,
    leads: bool = True,
    measures: bool = False,
) -> Dataset:
    """Opens a dataset with the recipe's classes, checks it as a whole and prints the findings.

    With ``measures``, the data measures a model and may have other classes (``Dataset.for_model``).

    Raises:
        InvalidValueError: If all pictures lack labels, or with ``strict`` at any fault.
        AfdetError: If the data does not exist or none of it is usable.
    """
    data = open_dataset(
        path,
        split=split,
        class_names=None if measures else recipe.model.classes or None,
        model=recipe.model.classes if measures else None,
        merge=recipe.data.merge,
        decode=True,
        progress=ui.progress if leads else None,
        strict=strict,
    )
    if leads:
        for line in data.report.lines():
            ui.warn(f"{data.name}: {line}")
    data.check_labels()
    return data


def _validation_data(recipe: Recipe, *, strict: bool, leads: bool) -> Dataset | None:
    if not recipe.data.val or not recipe.train.eval_every:
        return None
    truth = open_data(
        recipe, recipe.data.val, recipe.data.val_split, strict=strict, leads=leads, measures=True
    )
    return truth.head(recipe.data.val_limit) if recipe.data.val_limit else truth


def fit(
    recipe: Recipe, out: Path, *, resume: bool = False, strict: bool = False
) -> dict[str, float]:
    """Trains, evaluates and saves a model.

    Args:
        recipe: All settings of the run.
        out: Folder of the run: best and last checkpoints, metrics.jsonl, TensorBoard.
        resume: Continue from ``out``'s last checkpoint, with the results of an uninterrupted run.
        strict: Refuse data with any fault.

    Returns:
        The best evaluation (``ap``, ``ap50``); empty without validation data.

    Raises:
        AfdetError: If the recipe, the data or the folder is wrong, or the loss is not finite.
    """
    with process_group(recipe.train.device) as ranks:
        if not resume and ranks.leads and (out / "last.safetensors").exists():
            raise InvalidValueError(
                "the run's folder already holds a checkpoint",
                got=str(out),
                hint="pass --resume to continue, or another --out",
            )
        with ranks.first_here():  # The other processes find the pictures' sizes in the cache.
            dataset = open_data(
                recipe, recipe.data.train, recipe.data.train_split, strict=strict, leads=ranks.leads
            )
            recipe = with_classes(recipe, dataset)
            truth = _validation_data(recipe, strict=strict, leads=ranks.leads)
        if truth is not None and ranks.leads:
            shared = DataReport()
            note_shared({"train": dataset, "val": truth}, shared)
            for line in shared.lines():
                ui.warn(f"{truth.name}: {line}")
        pictures = TrainingPictures(dataset, recipe, model_spec(recipe.model))
        run = setup(recipe, ranks, len(dataset.records))
        if resume:
            run.restore(checkpoints.load(out / "last.safetensors"), str(out))
        report = Report(out, enabled=ranks.leads, tensorboard=recipe.train.tensorboard)
        with report:
            report.say(
                f"{len(dataset.records)} pictures, {recipe.model.num_classes} classes, "
                f"{count_parameters(run.detector) / 1e6:.2f} M parameters, "
                f"{run.total} iterations of {recipe.train.batch_size} on {ranks.world} x "
                f"{ranks.device}"
            )
            try:
                _loop(run, pictures, truth, out, report)
            except (KeyboardInterrupt, RunError):
                if ranks.leads and run.iteration:
                    _save(run, out, best=False)
                    report.say(f"saved at iteration {run.iteration}; continue with --resume")
                raise
        return run.best


def _loop(
    run: Run, pictures: TrainingPictures, truth: Dataset | None, out: Path, report: Report
) -> None:
    train_mode(run.detector, run.recipe.freeze)
    loader = batches(
        pictures, run.recipe, run.iteration, run.total, run.ranks.rank, run.ranks.world
    )
    report.start(run.total, run.iteration)
    broken: Counter[str] = Counter()
    clock = time.perf_counter()
    for batch in loader:
        waited = time.perf_counter() - clock
        for name in batch.broken:
            if name not in broken:
                report.warn(f"unreadable, another picture replaces it from now on: {name}")
            broken[name] += 1
        parts, norm = train_step(run, batch)
        figures = run.ranks.mean(parts.figures()).tolist()
        seconds = time.perf_counter() - clock
        clock = time.perf_counter()
        report.step(
            run.iteration,
            {
                **dict(zip(parts.names, figures, strict=True)),
                "grad_norm": norm,
                "lr": learning_rate(run.recipe.optim, run.iteration - 1, run.total),
                "positives": parts.positives,
                "images_per_s": len(batch.names) * run.ranks.world / seconds,
                "data_share": waited / seconds,
                **{f"level_p{3 + i}": n for i, n in enumerate(parts.levels.tolist())},
            },
        )
        if run.iteration % run.iterations_per_epoch == 0:
            _end_epoch(run, truth, out, report)
            clock = time.perf_counter()
    if broken:
        report.warn(
            f"{len(broken)} pictures became unreadable during the run and were skipped "
            f"{sum(broken.values())} times"
        )


def _end_epoch(run: Run, truth: Dataset | None, out: Path, report: Report) -> None:
    if report.mean("dead") > DEAD_SHARE_WARNING:
        report.warn(
            f"{report.mean('dead'):.0%} of the positives have a zero box output (dying ReLU); "
            "model.head.reg_activation=softplus avoids it"
        )
    if run.ranks.leads:
        epoch = round(run.epoch)
        last = run.iteration >= run.total
        due = truth is not None and (last or epoch % run.recipe.train.eval_every == 0)
        improved = truth is None
        if due and truth is not None:
            metrics = _evaluate(run, truth, report)
            improved = metrics["ap"] > run.best.get("ap", -1.0)
            if improved:
                run.best = {**metrics, "epoch": float(epoch)}
            report.evaluation(run.iteration, epoch, metrics)
        _save(run, out, best=improved)
        plot_curves(read_metrics(out / "metrics.jsonl"), out / "curves.png", run.spec.name)
    run.ranks.wait()
