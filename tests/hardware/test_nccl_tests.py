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


def test_no_bytes_in_no_time(tmp_path):
    nothing = ROWS.splitlines()[0].replace("1024", "0").replace("10.00", "0.00")
    run = read_nccl_tests(write(tmp_path, f"{HEAD}{nothing}\n{ROWS}"))
    assert run.curve.xs == (1024, 3072)


END = "# Avg bus bandwidth    : 0.1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + END, "2 ranks and 0 sizes"),
        (HEAD + "1024 word\n" + END, "line 10: cut off or no row of nccl-tests: '1024 word'"),
        (HEAD + ROWS.replace("10.00", "-1.00"), "line 10: .* positive and finite, not -1.00"),
        (HEAD + ROWS.replace("30.00", "nan"), "line 11: .* finite, not nan"),
        (HEAD + ROWS.replace(END, ""), "cut off: sizes to 3072 bytes, but no line '# Avg"),
        (HEAD + ROWS[:120], "line 11: cut off"),
        (HEAD + ROWS + HEAD + ROWS, "rank 0 twice: several runs"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_nccl_tests(write(tmp_path, text))
    assert "all_reduce_2.txt" in str(error.value)


def test_a_byte_order_mark(tmp_path):
    assert read_nccl_tests(write(tmp_path, "\ufeff" + HEAD + ROWS)).ranks == 2


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_nccl_tests(tmp_path / "absent.txt")
