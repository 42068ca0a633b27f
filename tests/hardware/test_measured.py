import pytest

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork, RecurrentWork
from servesim.hardware.contract import check_device
from servesim.hardware.cost import Source
from servesim.hardware.load import load_device

SHEET = """
kind = "cpu"
[peak_flops]
bf16 = 1e12
[memory]
name = "memory"
capacity_bytes = 1e9
bandwidth = 1e11
"""
TABLES = """
[measured.gemm]
"bf16 128x64" = [[1, 1e-5], [3, 3e-5], [9, 9e-5]]
"any bf16" = {call = 1e-6, flops = 2e-12, weight_bytes = 1e-11}
[measured.memory]
"norm 1 x 128 B 256 FLOP" = [[2, 4e-6], [4, 8e-6]]
[measured.attention]
"bf16 4/2 16/16" = {call = 1e-5, decode_keys = 1e-8, prefill_pairs = 1e-9}
[measured.recurrent]
"bf16 ssd 4 8x8" = {scan = 1e-5, prefill_tokens = 1e-7, update = 2e-6, decodes = 1e-6}
"""


@pytest.fixture
def costs(tmp_path):
    return loaded(tmp_path, TABLES).cost_model


def loaded(tmp_path, tables):
    path = tmp_path / "toy.toml"
    path.write_text(SHEET + tables)
    return load_device(str(path))


def test_a_curve_between_and_beyond_its_points(costs):
    inside, beyond = (costs.cost(GemmWork(m, 128, 64)) for m in (2, 15))
    assert (inside.seconds, inside.source) == (pytest.approx(2e-5), Source.MEASURED)
    assert (beyond.seconds, beyond.source) == (pytest.approx(15e-5), Source.EXTRAPOLATED)


def test_a_shape_that_was_not_measured_is_a_sum_of_its_sizes(costs):
    # 2*2*32*16 FLOP and 32*16 weights of two bytes
    found = costs.cost(GemmWork(2, 32, 16))
    assert found.seconds == pytest.approx(1e-6 + 2048 * 2e-12 + 1024 * 1e-11)
    assert found.source is Source.CALIBRATED


MIXTURE = """
[measured.moe]
"bf16 4/2 8x8" = [[1, 1e-5], [8, 4e-5]]
"any bf16" = {call = 1e-6, weight_bytes = 1e-8}
"""


def test_experts_chosen_unevenly_take_less_by_the_sum_of_their_kind(tmp_path):
    model = loaded(tmp_path, MIXTURE).cost_model
    even = 4 * (1 - 0.5**8)  # of four experts, by eight tokens that go to two each
    one = 3 * 8 * 8 * 2 * 1e-8
    as_measured, uneven = (
        model.cost(MoeWork(8, 16.0, touched, 4, 2, 8, 8)) for touched in (even, 2.0)
    )
    assert (as_measured.seconds, as_measured.source) == (pytest.approx(4e-5), Source.MEASURED)
    share = (1e-6 + 2 * one) / (1e-6 + even * one)
    assert uneven.seconds == pytest.approx(4e-5 * share)
    assert uneven.source is Source.CALIBRATED


def test_a_kind_that_was_not_measured_is_left_to_the_data_sheet(costs):
    assert costs.cost(MemoryWork("rotary", 2, 64.0, 64.0)).source is Source.ANALYTICAL


def test_rows_of_a_norm_are_counted_by_token(costs):
    assert costs.cost(MemoryWork("norm", 3, 900.0, 384.0, 768.0)).seconds == pytest.approx(6e-6)


def test_attention_adds_up(costs):
    # 8 new tokens after 4: 8*4 + 8*9/2 pairs
    both = AttentionWork(((8, 4),), 3, 100, 50, 4, 2, 16, 16)
    assert costs.cost(both).seconds == pytest.approx(1e-5 + 100e-8 + 68e-9)


def test_recurrent_scans_and_updates_add_up(costs):
    both = RecurrentWork("ssd", 50, 1, 4, 4, 8, 8, 1.0, 1.0, 1.0)
    assert costs.cost(both).seconds == pytest.approx(1e-5 + 50e-7 + 2e-6 + 4e-6)


def test_what_only_decodes_were_measured_of_does_not_tell_what_prefills_take(tmp_path):
    sums = '[measured.recurrent]\n"bf16 ssd 4 8x8" = {update = 2e-6, decodes = 1e-6}\n'
    costs = loaded(tmp_path, sums).cost_model
    decodes, both = (
        costs.cost(RecurrentWork("ssd", new, new > 0, 4, 4, 8, 8, 1.0, 1.0, 1.0)) for new in (0, 50)
    )
    assert (decodes.seconds, decodes.source) == (pytest.approx(6e-6), Source.MEASURED)
    assert both.source is Source.ANALYTICAL


def test_nothing_takes_no_time(costs):
    assert costs.cost(GemmWork(0, 128, 64)).seconds == 0.0


def test_no_measurement_beats_the_peaks(tmp_path):
    device = loaded(tmp_path, '[measured.gemm]\n"bf16 4096x4096" = [[1, 1e-9], [512, 1e-9]]')
    assert device.cost_model.cost(GemmWork(512, 4096, 4096)).seconds == 2 * 512 * 4096**2 / 1e12
    check_device(device)


def test_the_device_keeps_its_contract(tmp_path):
    check_device(loaded(tmp_path, TABLES))


@pytest.mark.parametrize(
    ("tables", "error", "words"),
    [
        ("[measured.gem]\na = []", UnknownNameError, "did you mean 'gemm'"),
        ("[measured.gemm]\na = []", InputError, "needs points"),
        ("[measured.gemm]\na = [[1, -1]]", InputError, "positive"),
        ("[measured.gemm]\na = 3", InputError, r"a list of \[count, seconds\], not 3"),
        ("[measured.attention]\na = {keys = 1}", UnknownNameError, "term of toy"),
        ('[measured.gemm]\n"any bf16" = {rows = 1}', UnknownNameError, "activation_bytes"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, tables, error, words):
    with pytest.raises(error, match=words):
        loaded(tmp_path, tables)
