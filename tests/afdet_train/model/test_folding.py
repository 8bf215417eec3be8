"""Folded batch norms change the speed of training and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from afdet_train.model.backbones import build_backbone
from afdet_train.model.folding import fold_frozen_norms
from torch import Tensor, nn

EXAMPLE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def randomise(network: nn.Module) -> None:
    """Statistics and parameters of norms as after training, not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -0.3),
                (module.running_var, 0.5),
                (module.weight, 0.7),
                (module.bias, -0.2),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, low + 0.6, generator=generator)


def freeze_norms(network: nn.Module) -> list[nn.Module]:
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    network.train()
    for norm in norms:
        norm.eval()
        for parameter in norm.parameters():
            parameter.requires_grad_(False)
    return list(norms)


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 2e-4 * a.abs().max() + 1e-7)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0", "resnet101"])
def test_outputs_and_gradients_are_the_same(name: str) -> None:
    torch.manual_seed(0)
    plain, _ = build_backbone(name)
    randomise(plain)
    folded = copy.deepcopy(plain)
    freeze_norms(plain)
    frozen = freeze_norms(folded)
    keys = list(folded.state_dict())
    assert fold_frozen_norms(folded, frozen, EXAMPLE) == len(frozen)
    assert list(folded.state_dict()) == keys
    assert [m.training for m in folded.modules()] == [m.training for m in plain.modules()]
    images = torch.randn(2, 3, 96, 64)
    state = torch.get_rng_state()
    expected = plain(images)
    torch.set_rng_state(state)  # Drop path.
    got = folded(images)
    assert all(close(e.detach(), g.detach()) for e, g in zip(expected, got, strict=True))
    gradients = [torch.randn_like(e) for e in expected]
    torch.autograd.backward(expected, gradients)
    torch.autograd.backward(got, gradients)
    for (key, a), b in zip(plain.named_parameters(), folded.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        assert a.grad is None or b.grad is None or close(a.grad, b.grad), key


def test_weights_that_are_loaded_later_take_effect() -> None:
    torch.manual_seed(0)
    source, _ = build_backbone("efficientnet_lite0")
    randomise(source)
    network, _ = build_backbone("efficientnet_lite0")
    assert fold_frozen_norms(network, freeze_norms(network), EXAMPLE) > 40
    network.load_state_dict(source.state_dict())
    source.eval(), network.eval()
    with torch.no_grad():
        assert all(close(a, b) for a, b in zip(source(EXAMPLE), network(EXAMPLE), strict=True))


class TwoUses(nn.Module):
    """The norm's convolution is also used without it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


def test_a_network_that_folding_would_change_stays_as_it_is() -> None:
    network = TwoUses()
    randomise(network)
    frozen = freeze_norms(network)
    with torch.no_grad():
        expected = network(EXAMPLE)
        assert fold_frozen_norms(network, frozen, EXAMPLE) == 0
        assert torch.equal(network(EXAMPLE), expected)


def test_norms_that_learn_and_norms_without_a_convolution_are_left_alone() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
    )
    randomise(network)
    freeze_norms(network)
    assert fold_frozen_norms(network, [], EXAMPLE) == 0
    assert fold_frozen_norms(network, [network[3]], EXAMPLE) == 0
    # A bias of the convolution is scaled with it.
    expected = network(EXAMPLE)
    assert fold_frozen_norms(network, [network[1], network[3]], EXAMPLE) == 1
    assert close(expected.detach(), network(EXAMPLE).detach())
