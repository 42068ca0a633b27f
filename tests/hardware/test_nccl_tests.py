"""Reading the output of nccl-tests."""

import pytest

from servesim.errors import InputError
from servesim.hardware.tables.nccl_tests import read_nccl_tests

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


def test_times_by_size(tmp_path):
    run = read_nccl_tests(write(tmp_path, HEAD + ROWS))
    assert (run.operation, run.ranks) == ("all_reduce", 2)
    assert run.curve.at(2048.0) == pytest.approx(20e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [(HEAD, "2 ranks and 0 sizes"), (HEAD + "1024 word\n", "not the output")],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_nccl_tests(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_nccl_tests(tmp_path / "absent.txt")
