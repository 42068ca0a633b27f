"""Reading the output of nccl-tests."""

import pytest

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import CollectiveWork
from servesim.hardware.cost import Source
from servesim.hardware.link import Link
from servesim.hardware.tables.nccl_tests import load_nccl_tests

LINK = Link("wire", 1e9, 1e-6)
HEAD = """# nThread 1 nGpus 2 minBytes 1024 maxBytes 4096 step: 2(factor) warmup iters: 5
#
# Using devices
#  Rank  0 Group  0 Pid  1001 on   host device  0 [0x41] NVIDIA X
#  Rank  1 Group  0 Pid  1001 on   host device  1 [0x42] NVIDIA X
#
#                                                       out-of-place
#       size         count      type   redop    root     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)
"""
ROWS = """        1024           256     float     sum      -1    10.00    0.10    0.10      0
        3072           768     float     sum      -1    30.00    0.10    0.10      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 0.1
"""


def write(tmp_path, text):
    path = tmp_path / "all_reduce_2.txt"
    path.write_text(text)
    return path


def test_times_are_measured_ones(tmp_path):
    costs = load_nccl_tests(LINK, {"all_reduce": [write(tmp_path, HEAD + ROWS)]})
    cost = costs.cost(CollectiveWork("all_reduce", 2048.0, 2))
    assert cost.seconds == pytest.approx(20e-6)
    assert cost.source == Source.MEASURED
    assert costs.cost(CollectiveWork("all_reduce", 2048.0, 4)).source == Source.EXTRAPOLATED
    assert costs.cost(CollectiveWork("all_gather", 2048.0, 2)).source == Source.ANALYTICAL


def test_what_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'all_reduce'"):
        load_nccl_tests(LINK, {"allreduce": []})
    with pytest.raises(InputError, match="2 ranks and 0 sizes"):
        load_nccl_tests(LINK, {"all_reduce": [write(tmp_path, HEAD)]})
    with pytest.raises(InputError, match="not the output"):
        load_nccl_tests(LINK, {"all_reduce": [write(tmp_path, HEAD + "1024 word\n")]})
    with pytest.raises(InputError, match="cannot be read"):
        load_nccl_tests(LINK, {"all_reduce": [tmp_path / "absent.txt"]})
