"""Calls the C ABI with random bad arguments: abi_fuzz.py host|emulated SEED RUNS.

Good calls are mixed in, so that refusing everything fails too.
"""

from __future__ import annotations

import ctypes
import random
import sys

import numpy as np

from trt_afdet import native
from trt_afdet.spec import ModelSpec

kind, seed, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
library = native.host() if kind == "host" else native.emulated()
random = random.Random(seed)
spec = ModelSpec(name="t", class_names=("a", "b", "c"), height=128, width=128)
numbers = np.random.default_rng(seed)
heads = [numbers.normal(-2, 2, (2, 3, *g)).astype("f4") for g in spec.grid_sizes]
heads += [numbers.uniform(0, 1, (2, 4, *g)).astype("f4") for g in spec.grid_sizes]
whole = [-(2**31), -1, 0, 1, 2, 3, 7, 8, 9, 100, 4096, 4097]
whole += [65535, 65536, 2**20, 2**20 + 1, 2**31 - 1]
real = [float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-45, 0.5, 1.0, 1.0000001, 3e38]
seen = {}
for run in range(runs):
    params = native.Params.of(spec)
    for _ in range(random.choice([0, 1, 1, 2])):
        name, element = random.choice(native.Params._fields_)
        if name == "strides":
            params.strides[random.randrange(8)] = random.choice([*whole, 8, 16, 12])
        else:
            value = random.choice(real if element is ctypes.c_float else whole)
            setattr(params, name, value % 2**32 if element is ctypes.c_uint32 else value)
    # As much memory as the library may use if it takes the call.
    fits = params.max_detections <= 4096 and params.num_levels <= 5
    fits = fits and params.num_classes <= 3 and params.height <= 128 and params.width <= 128
    fits = fits and list(params.strides[:5]) == [8, 16, 32, 64, 128]
    batch = random.choice([2, 2, 2, 1, 0, -1, -(2**31)] + ([] if fits else [2**31 - 1, 65536]))
    dtype = random.choice([0, 0, 0, 1, 2, -1, 2**31 - 1])
    rows = 2 * max(1, min(params.max_detections, 4096))
    outputs = [
        np.full(2, -7, "i4"),
        np.full(4 * rows, -7, "f4"),
        np.full(rows, -7, "f4"),
        np.full(rows, -7, "i4"),
    ]
    before = [o.copy() for o in outputs]
    addresses = [h.ctypes.data for h in heads] + [0] * 6
    if random.random() < 0.2:
        addresses[random.randrange(10)] = None
    elif not fits:
        addresses = [None] * 16
    out = native.DetectionsOut(*(o.ctypes.data for o in outputs))
    if random.random() < 0.1:
        setattr(out, random.choice(["num_detections", "boxes", "scores", "classes"]), None)
    pointers = (ctypes.c_void_p * 16)(*addresses)
    given = None if random.random() < 0.03 else ctypes.byref(params)
    target = None if random.random() < 0.03 else ctypes.byref(out)
    table = None if random.random() < 0.03 else pointers
    if kind == "host":
        threads = random.choice([1, 1, 3, 0, -5])
        status = library._detect(given, table, dtype, batch, None, threads, target)
    else:
        size = ctypes.c_size_t(2**64 - 1)
        asked = library._library.afdet_cuda_detect_workspace(
            given, dtype, batch, ctypes.byref(size)
        )
        assert (asked == 0) == (size.value != 2**64 - 1)
        assert library._library.afdet_cuda_detect_workspace(given, dtype, batch, None) != 0
        needed = min(size.value, 2**24) if asked == 0 else 1024
        memory = np.zeros(needed + 512, np.uint8)
        start = (memory.ctypes.data + 255) // 256 * 256
        start, stated = random.choice(
            [(start, needed)] * 6 + [(start, needed - 1), (start + 8, needed), (None, needed)]
        )
        status = library._library.afdet_cuda_detect(
            given, table, dtype, batch, target, start, ctypes.c_size_t(stated), None
        )
        if asked != 0:
            assert status == asked, (asked, status)
    seen[status] = seen.get(status, 0) + 1
    if status != 0 or batch == 0:
        for now, then in zip(outputs, before, strict=True):
            assert now.tobytes() == then.tobytes(), (status, run)
print(sorted(seen))
assert seen[0] > runs // 50
assert len(seen) >= 8, seen
