"""The hand count against published numbers and against PyTorch's own counter."""

import pytest

from cracks_jax.benchmark import flops
from cracks_jax.benchmark.job import Job
from cracks_jax.benchmark.ours import draw_batch

torch = pytest.importorskip("torch")


def test_the_resnets_have_torchvisions_operations():
    """4.089 and 7.801 billion multiply-adds at 224 px, of which the classifier, which we lack, has 2.048 million."""
    for depth, total in ((50, 4_089_184_256), (101, 7_801_405_440)):
        assert flops.macs(flops.resnet(224, depth, output_stride=32)) == total - 2_048_000


def test_the_generator_has_six_billion_multiply_adds_at_256_px():
    """6.05: pix2pix's U-Net is often printed as 6.06, with norms and biases."""
    layers = {layer.name: layer for layer in flops.generator(256)}
    assert sum(layer.macs for layer in layers.values()) == 6_048_186_368
    assert layers["enc8"].values == 512 and layers["dec8"].values == 256 * 256 * 3


def _counted(run) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("system", ["upcracknet", "crackseg-r50", "crackseg"])
def test_the_forward_count_is_pytorchs(system):
    from tests.reference import benchmark_torch as twin

    job = Job("infer", system, batch=1, size=64, narrow=8)
    network = twin.scoring_network(job, twin.networks_of(job))
    assert _counted(lambda: network(torch.zeros(1, 3, 64, 64))) == round(flops.infer_gflop(job) * 1e9)


@pytest.mark.parametrize("system", ["upcracknet", "crackseg-r50"])
def test_the_steps_count_is_pytorchs(system, monkeypatch):
    """But for the discriminator's first layer, where PyTorch takes the gradient of the corrupted image too."""
    from tests.reference import benchmark_torch as twin

    for name in ("ssim", "msgms_loss"):  # their fixed windows are convolutions there
        monkeypatch.setattr(twin.losses, name, lambda a, b: (a - b).square().mean())
    job = Job("step", system, batch=2, size=64, narrow=8)
    offer = twin.peers(job, ["eager"]).offers[0]
    contender = offer.make()
    placed = contender.place(draw_batch(job, 0))
    extra = 2 * flops.discriminator(64, 8)[0].macs // 2 if job.restores else 0
    assert _counted(lambda: contender.run(placed)) == job.batch * (round(flops.step_gflop(job) * 1e9) + extra)
