"""Layer by layer: which convolutions a system has, and a record that says of each what XLA's form and ours take."""

import json

from cracks_jax.benchmark.forms import layers_of, measure_forms
from cracks_jax.benchmark.job import Job


def test_every_distinct_convolution_of_both_networks_is_found():
    """Eight down and eight up, two of them alike nowhere; the discriminator's five, of which one is enc2's twin."""
    layers = layers_of(Job("forms", "upcracknet", batch=2, size=256))
    assert len(layers) == 8 + 8 + 5 - 2  # the discriminator's second and third layer have enc2's and enc3's shapes
    first = next(iter(layers.values()))
    assert (first.x, first.kernel, first.strides) == ((2, 256, 256, 3), (4, 4, 3, 64), (2, 2))
    assert sum(layer.transposed for layer in layers.values()) == 8


def test_crackseg_has_strided_dilated_and_pointwise_layers():
    layers = layers_of(Job("forms", "crackseg-r50", batch=1, size=256)).values()
    assert {layer.rates for layer in layers} >= {(1, 1), (2, 2), (3, 3), (5, 5)}
    assert any(layer.kernel[:2] == (7, 7) and layer.strides == (2, 2) for layer in layers)
    forms = {layer.forms[1].name.split(",")[0] for layer in layers if layer.forms[1] is not None}
    assert forms >= {"points", "winograd", "phases"}


def test_record_holds_every_layer_in_both_forms():
    record = measure_forms(Job("forms", "upcracknet", batch=1, size=32, narrow=16, repeats=1, warmup=1))
    assert len(record["layers"]) == len(layers_of(Job("forms", "upcracknet", batch=1, size=32, narrow=16)))
    for one in record["layers"]:
        assert ("ours" in one["value"]) == (one["form"] != "XLA's")
        assert one["gradients"]["xla"]["seconds"] > 0
    json.dumps(record, allow_nan=False)
