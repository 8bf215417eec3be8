"""Calls the C ABI with random arguments, most of them bad.

    python abi_fuzz.py host|emulated|cuda SEED RUNS

What is wrong with a call is worked out here, from the header's words: a call with nothing wrong
must succeed, any other must return a status that names one of its faults, and leave the outputs
alone. The CUDA library gets faulty calls only, so it needs no GPU.
"""

from __future__ import annotations

import ctypes
import faulthandler
import random
import sys
from collections import Counter
from typing import Any

import numpy as np

from trt_afdet import native
from trt_afdet.spec import ModelSpec

NULL, STRUCT, LEVELS, INPUT, CLASSES, LIMITS, THRESHOLDS, BATCH, DTYPE, WORKSPACE = range(1, 11)

SPEC = ModelSpec(name="t", class_names=("a", "b", "c"), height=128, width=128)
WHOLE = [-(2**31), -1, 0, 1, 2, 3, 7, 8, 9, 16, 100, 256, 4096, 4097, 65535, 65536]
WHOLE += [2**20, 2**20 + 1, 2**29, 2**29 + 1, 2**30, 2**31 - 1]
REAL = [float("nan"), float("inf"), -float("inf"), -1.0, -1e-45, -0.0, 0.0, 1e-45, 0.5, 1.0]
REAL += [1.0000001, 3e38]

#: Most pairs of a level, most detections and candidates.
MOST_PAIRS, MOST_LIMIT = 2**29, 2**20

#: Floats of a head, and rows of results, that there is memory for.
MOST_VALUES, MOST_ROWS = 2**19, 2**21


def levels_of(params: native.DecodeParams) -> list[int]:
    return list(params.strides[: min(max(params.num_levels, 0), native.MAX_LEVELS)])


def faults_of(params: native.DecodeParams) -> set[int]:
    """The statuses that the parameters may be refused with."""
    faults = set()
    strides = levels_of(params)
    if params.struct_size != ctypes.sizeof(native.DecodeParams):
        faults.add(STRUCT)
    if not 1 <= params.num_levels <= native.MAX_LEVELS or strides != sorted(set(strides)):
        faults.add(LEVELS)
    if any(stride < 1 or stride & (stride - 1) for stride in strides):
        faults.add(LEVELS)
    if params.height < 1 or params.width < 1:
        faults.add(INPUT)
    if params.num_classes < 1:
        faults.add(CLASSES)
    for stride in strides:
        if stride < 1:
            continue
        if params.height % stride or params.width % stride:
            faults.add(INPUT)
        points = (params.height // stride) * (params.width // stride)
        if points > MOST_PAIRS:
            faults.add(INPUT)
        if points * params.num_classes > MOST_PAIRS:
            faults.add(CLASSES)
    for limit in (params.candidates_per_level, params.max_detections):
        if not 1 <= limit <= MOST_LIMIT:
            faults.add(LIMITS)
    # Written so that NaN is a fault.
    if not (0 <= params.score_threshold <= 1 and 0 <= params.nms_iou <= 1):
        faults.add(THRESHOLDS)
    if not 0 < params.regression_scale < float("inf"):
        faults.add(THRESHOLDS)
    return faults


def fits(params: native.DecodeParams, batch: int) -> bool:
    """Whether there is memory for a call that is taken."""
    points = sum((params.height // s) * (params.width // s) for s in levels_of(params))
    values = batch * points * max(params.num_classes, 4)
    return values <= MOST_VALUES and batch * params.max_detections <= MOST_ROWS


class Fuzzer:
    """One library under fire.

    Attributes:
        seen: How often each status came back.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.is_host = kind == "host"
        self.runs_kernels = kind == "emulated"
        self.random = random.Random(seed)
        self.seen: Counter[int] = Counter()
        if self.is_host:
            self.detect: Any = native.host()._detect
        else:
            library = native.emulated() if kind == "emulated" else native.cuda()
            self.detect = library._library.afdet_cuda_detect
            self.ask: Any = library._library.afdet_cuda_detect_workspace
        numbers = np.random.default_rng(seed).normal(-1, 2, MOST_VALUES).astype(np.float32)
        self.numbers = numbers  # All heads are this memory.
        self.results = [np.empty(0, np.uint8)] * 4

    def sometimes(self, share: float) -> bool:
        return self.random.random() < share

    def params(self) -> native.DecodeParams:
        """Sound ones with up to three values changed."""
        params = native.DecodeParams.of(SPEC)
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 3])):
            name, element = self.random.choice(native.DecodeParams._fields_)[:2]
            if name == "strides":
                params.strides[self.random.randrange(8)] = self.random.choice(WHOLE)
            elif element is ctypes.c_float:
                setattr(params, name, self.random.choice(REAL))
            else:
                value = self.random.choice(WHOLE)
                setattr(params, name, value % 2**32 if element is ctypes.c_uint32 else value)
        return params

    def outputs(self, rows: int) -> native.DetectionsOut:
        """Room for the results, filled with a pattern."""
        self.results = [np.full(4 * size, 0xA5, np.uint8) for size in (rows, 4 * rows, rows, rows)]
        return native.DetectionsOut(*(array.ctypes.data for array in self.results))

    def untouched(self) -> bool:
        return all((array == 0xA5).all() for array in self.results)

    def call(self) -> None:
        """One call, and whether it did what it must."""
        params = self.params()
        batch = self.random.choice([2, 2, 2, 1, 3, 0, -1, -(2**31), 65535, 65536, 2**31 - 1])
        dtype = self.random.choice([0, 0, 1, 1, 2, -1, 2**31 - 1])
        faults = faults_of(params)
        if dtype not in (0, 1):
            faults.add(DTYPE)
        if not self.is_host:
            if batch < 1 or batch > 65535:
                faults.add(BATCH)
        elif batch < 0:
            faults.add(BATCH)

        given: Any = ctypes.byref(params)
        if self.sometimes(0.03):
            given, faults = None, {NULL}
        size = 0
        if not self.is_host:
            size = self.check_workspace(given, dtype, batch, faults)
        safe = not faults and fits(params, batch)
        out = self.outputs(max(1, batch * params.max_detections) if safe else 64)
        heads = [self.numbers.ctypes.data] * 16
        # With no image the host library looks at no pointer.
        looks = not (self.is_host and batch == 0)
        target: Any = ctypes.byref(out)
        table: Any = (ctypes.c_void_p * 16)(*heads)
        missing = False
        if self.sometimes(0.1):
            setattr(out, self.random.choice(native.DetectionsOut._fields_)[0], None)
            missing = True
        if self.sometimes(0.1):
            table[self.random.randrange(2 * max(1, len(levels_of(params))))] = None
            missing = True
        if self.sometimes(0.03):
            target, missing = None, True
        if self.sometimes(0.03):
            table, missing = None, True
        if missing and looks:
            faults.add(NULL)

        if self.is_host:
            threads = self.random.choice([1, 1, 1, 3, 0, -5, -(2**31)])
            if threads < 1:
                faults.add(BATCH)
            if faults or safe:
                print(bytes(params).hex(), dtype, batch, threads, flush=True)
                status = self.detect(given, table, dtype, batch, None, threads, target)
                self.judge(status, faults, wrote=batch > 0)
            return
        memory = np.zeros(min(size, 2**26) + 512, np.uint8)
        start: Any = memory.ctypes.data + -memory.ctypes.data % 256
        stated = size
        trouble = self.random.choice([None] * 8 + ["small", "nothing", "unaligned", "null"])
        if trouble == "small":
            stated = max(size, 1) - 1
        elif trouble == "nothing":
            stated = 0
        elif trouble == "unaligned":
            start += 128
        elif trouble == "null":
            start = None
        if trouble is not None:
            faults.add(NULL if trouble == "null" else WORKSPACE)
        if faults or (safe and self.runs_kernels and size <= 2**26):
            print(bytes(params).hex(), dtype, batch, trouble, flush=True)
            status = self.detect(
                given, table, dtype, batch, target, start, ctypes.c_size_t(stated), None
            )
            self.judge(status, faults, wrote=True)

    def check_workspace(self, given: Any, dtype: int, batch: int, faults: set[int]) -> int:
        """Asks for the workspace's size; returns it, 0 if refused."""
        size = ctypes.c_size_t(2**64 - 1)
        status = self.ask(given, dtype, batch, ctypes.byref(size))
        assert status in faults if faults else status == 0, (status, faults)
        assert (status != 0) == (size.value == 2**64 - 1)
        assert self.ask(given, dtype, batch, None) in faults | {NULL}
        return size.value if status == 0 else 0

    def judge(self, status: int, faults: set[int], wrote: bool) -> None:
        self.seen[status] += 1
        if faults:
            assert status in faults, (status, faults)
        else:
            assert status == 0, status
        assert self.untouched() != (status == 0 and wrote)


def main() -> None:
    kind, seed, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    faulthandler.enable()
    fuzzer = Fuzzer(kind, seed)
    for _ in range(runs):
        fuzzer.call()
    print(sorted(fuzzer.seen.items()))
    # Refusing everything would pass as well, were it not for these.
    wanted = {NULL, STRUCT, LEVELS, INPUT, CLASSES, LIMITS, THRESHOLDS, BATCH, DTYPE}
    wanted |= set() if kind == "host" else {WORKSPACE}
    assert wanted <= set(fuzzer.seen), fuzzer.seen
    assert kind == "cuda" or fuzzer.seen[0] > runs // 50, fuzzer.seen


if __name__ == "__main__":
    main()
