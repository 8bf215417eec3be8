"""The network: sizes, graphs and initial values the method states."""

from __future__ import annotations

import pytest
import torch
from afdet_train.config import ModelConfig
from afdet_train.model.backbones import BACKBONES, LITE0_PACKAGE, build_backbone
from afdet_train.model.heads import Heads
from afdet_train.model.meta import MetaSelection
from afdet_train.model.necks import GRAPHS, Fusion, Neck, resample
from afdet_train.model.network import STRIDES, build_network, count_parameters
from torch import nn

from trt_afdet.errors import CorruptFileError, InvalidValueError


def config(**changes: object) -> ModelConfig:
    base: dict[str, object] = {
        "classes": tuple(f"c{i}" for i in range(20)),
        "backbone": {"weights": "none"},
    }
    return ModelConfig.model_validate({**base, **changes})


def test_parameter_counts() -> None:
    """Section 1 of the method, K = 20: parts and their sum."""
    network = build_network(config(targets={"mode": "ofs"}))
    projections = sum(count_parameters(p) for p in network.neck.inputs.project)
    assert count_parameters(network.backbone) == 3_595_388
    assert projections == 51_200
    assert count_parameters(network.neck) - projections == 115_275
    assert count_parameters(network.heads) == 235_416
    assert count_parameters(network) == 3_997_279


def test_bifpn_is_equation_two() -> None:
    graph = GRAPHS["bifpn"]
    assert len(graph) == 8
    assert sum(len(node.sources) for node in graph) == 25
    sources = {node.name: set(node.sources) for node in graph}
    # The two edges EfficientDet's graph does not have.
    assert "in6" in sources["td5"]
    assert "td6" in sources["out5"]


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_graphs_use_only_what_exists(name: str) -> None:
    known = {f"in{level}" for level in range(3, 8)}
    for node in GRAPHS[name]:
        assert set(node.sources) <= known, node
        assert all(abs(int(s[-1]) - node.level) <= 1 for s in node.sources)
        known.add(node.name)


@pytest.mark.parametrize("name", sorted(GRAPHS))
@pytest.mark.parametrize("repeats", [1, 2])
def test_neck_shapes(name: str, repeats: int) -> None:
    neck = Neck((8, 16, 24), name, width=16, repeats=repeats).eval()
    features = [torch.randn(2, c, 128 // s, 256 // s) for c, s in ((8, 8), (16, 16), (24, 32))]
    shapes = [tuple(m.shape) for m in neck(features)]
    assert shapes == [(2, 16, 128 // s, 256 // s) for s in STRIDES]


@pytest.mark.parametrize("name", ["fpn", "panet", "bifpn"])
def test_every_neck_parameter_learns(name: str) -> None:
    neck = Neck((8, 16, 24), name, width=16, repeats=2)
    features = [torch.randn(2, c, 128 // s, 256 // s) for c, s in ((8, 8), (16, 16), (24, 32))]
    sum(m.pow(2).sum() for m in neck(features)).backward()  # type: ignore[union-attr]
    assert [n for n, p in neck.named_parameters() if p.grad is None] == []


def test_fusion_by_hand() -> None:
    """Eq. (1): a negative weight counts as none."""
    fuse = Fusion(3)
    fuse.weight.data = torch.tensor([1.0, 3.0, -2.0])
    out = fuse([torch.tensor([4.0]), torch.tensor([8.0]), torch.tensor([100.0])])
    assert out.item() == pytest.approx((4 + 24) / 4.0001)


def test_resampling() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert resample(x, 4, 3).shape[-1] == 8
    assert resample(x, 4, 3)[0, 0, :2, :2].unique().tolist() == [0.0]
    assert resample(x, 4, 5)[0, 0].tolist() == [[5.0, 7.0], [13.0, 15.0]]


@pytest.mark.parametrize("activation", ["relu", "softplus", "exp"])
@pytest.mark.parametrize("norm", ["none", "bn", "gn"])
def test_heads_start_as_specified(activation: str, norm: str) -> None:
    torch.manual_seed(0)
    heads = Heads(32, 7, norm=norm, reg_activation=activation).eval()
    logits, distances = heads([torch.zeros(1, 32, 4, 4)] * 5)
    assert logits[0].shape == (1, 7, 4, 4)
    assert torch.sigmoid(logits[0]).mean().item() == pytest.approx(0.01, rel=0.05)
    assert distances[0].mean().item() == pytest.approx(0.1, rel=0.05)
    assert heads.cls_out.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_exp_distances_stay_within_fp16() -> None:
    heads = Heads(8, 2, reg_activation="exp")
    nn.init.constant_(heads.reg_out.bias, 1e4)  # type: ignore[arg-type]
    _, distances = heads([torch.zeros(1, 8, 2, 2)] * 5)
    assert distances[0].max().item() * 4 * 128 < 2**18
    assert bool(torch.isfinite(distances[0].half()).all())


def test_meta_selection_with_many_one_and_no_boxes() -> None:
    net = MetaSelection(16, STRIDES).train()
    maps = [torch.randn(2, 16, 128 // s, 128 // s) for s in STRIDES]
    rois = torch.tensor([[0.0, 10.0, 10.0, 60.0, 70.0], [1.0, 10.0, 10.0, 60.0, 70.0]])
    assert net(maps, rois).shape == (2, 5)
    assert bool(torch.isfinite(net(maps, rois[:1])).all())
    assert all(m.training for m in net.convs)
    empty = net(maps, rois[:0])
    assert empty.shape == (0, 5)
    empty.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_backbones_have_three_strides(name: str) -> None:
    features, channels = build_backbone(name)
    maps = features.eval()(torch.randn(1, 3, 128, 128))
    assert [m.shape[1] for m in maps] == list(channels)
    assert [128 // m.shape[-1] for m in maps] == [8, 16, 32]


def test_deformable_convolutions_start_as_the_plain_ones() -> None:
    from afdet_train.model.backbones import DeformableConv

    conv = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=False)
    x = torch.randn(1, 8, 9, 9)
    assert torch.allclose(DeformableConv(conv)(x), conv(x), atol=1e-5)


def test_lite0_weights_come_from_the_package() -> None:
    features, _ = build_backbone("efficientnet_lite0", LITE0_PACKAGE)
    random, _ = build_backbone("efficientnet_lite0")
    loaded, own = features.state_dict(), random.state_dict()
    assert loaded.keys() == own.keys()
    # Trained statistics: none is at its initial value.
    assert all(float(loaded[n].abs().sum()) > 0 for n in loaded if n.endswith("running_mean"))


def test_lite0_weights_do_not_fit_another_backbone() -> None:
    with pytest.raises(InvalidValueError, match="EfficientNet-Lite0"):
        build_backbone("efficientnet_b0", LITE0_PACKAGE)


def test_wrong_weights_name_the_first_mismatch(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import save_file

    features, _ = build_backbone("efficientnet_lite0")
    state = {n: t.clone() for n, t in features.state_dict().items()}
    state["conv_stem.weight"] = torch.zeros(7, 3, 3, 3)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CorruptFileError, match=r"conv_stem.weight has shape \[7, 3, 3, 3\]"):
        build_backbone("efficientnet_lite0", str(tmp_path / "w.safetensors"))


def test_unknown_weights_and_backbone() -> None:
    with pytest.raises(InvalidValueError, match="no such file or name"):
        build_backbone("efficientnet_lite0", "nowhere.pth")
    with pytest.raises(InvalidValueError, match="unknown backbone"):
        build_backbone("vgg16")
