"""Torch's kernels compute what their operators say, where that can be told by looking."""

import pytest

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.ops.norm import Norm
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.ops.recurrent import Recurrent
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels import makers
from servesim.hardware.shapes import shape_of

torch = pytest.importorskip("torch")
ROOM = Room("cpu", 1e5, 1e8)
BATCH = BatchShape.of_tokens(5)


def result(kind, spec):
    torch.manual_seed(0)
    (call, *_) = makers("torch")[kind](spec, ROOM).calls(spec.work(BATCH, "x"))
    return call()


@pytest.mark.parametrize("function", ["", "offset", "layer"])
def test_norms_scale_rows_and_layer_norms_centre_them(function):
    found = result("norm", Norm(256, weights=256, function=function)).float()
    weightless = found if function == "offset" else found / 0.05
    assert 0.3 < weightless.std() < 3.0  # weights are about one, or about a twentieth


def test_norms_of_each_function_have_shapes_of_their_own():
    norms = [Norm(64, weights=64, function=f) for f in ("", "offset", "layer")]
    assert len({shape_of(norm.work(BATCH, "x")) for norm in norms}) == 3


def test_an_activation_that_writes_all_it_reads_has_no_gate():
    alone = result("pointwise", Pointwise("activation", 64, 64, function="gelu"))
    gated = result("pointwise", Pointwise("activation", 128, 64, function="gelu"))
    assert alone.shape == gated.shape == (5, 64)
    torch.manual_seed(0)
    x = torch.empty((5, 64), dtype=torch.bfloat16).normal_(0.0, 0.05)
    assert torch.equal(alone, torch.nn.functional.gelu(x))


def test_no_stand_in_for_recurrent_mixers_is_measured_on_a_gpu():
    spec = Recurrent("ssd", 4, 8, 8, 1.0, 1.0, 256.0)
    with pytest.raises(UnsupportedError, match="no kernels of recurrent mixers"):
        makers("torch")["recurrent"](spec, Room("cuda", 1e5, 1e8))
