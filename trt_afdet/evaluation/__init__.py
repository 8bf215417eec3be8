"""How good detections are: COCO AP, VOC AP50, confusion; and pictures of it."""

from trt_afdet.evaluation.coco import ClassResult, CocoResult, evaluate_coco
from trt_afdet.evaluation.evaluate import evaluate, predict
from trt_afdet.evaluation.matching import confusion_matrix
from trt_afdet.evaluation.voc import VocResult, evaluate_voc

__all__ = [
    "ClassResult", "CocoResult", "VocResult", "confusion_matrix", "evaluate", "evaluate_coco",
    "evaluate_voc", "predict",
]  # fmt: skip
