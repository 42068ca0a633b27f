"""Attention entries: what is borrowed where nothing tells it, and which variant stands in."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from toy import DEVICE

from servesim.graph.work import AttentionWork
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.run import as_table, calibrate
from servesim.hardware.calibrated import FORMS, CalibratedCost
from servesim.hardware.calibration_entry import completed
from servesim.hardware.cost import Source
from servesim.hardware.forms.keys import attention_key
from servesim.hardware.load import device_names, load_device, load_sheet

EXPANDED = AttentionWork(((512, 0),), 0, 0, 0, 16, 16, 192, 128)
PLAIN = replace(EXPANDED, value_dim=192)


def decode_rows(kv_dtype: str, longest: float = 1.0) -> list[Row]:
    """Decodes of windowed attention in 5 µs and what memory takes."""
    rows = []
    for heads in (2, 4, 8, 16, 32):
        for count in (1, 4, 16, 64):
            for keys in (64, 512, 4096):
                work = AttentionWork(
                    *((), count, count * keys, int(longest * keys), heads, 2, 128, 128),
                    kv_dtype=kv_dtype,
                    window=4096,
                )
                seconds = 5e-6 + work.decode_keys * work.kv_bytes_per_token / 0.8e12
                form = f"decode.{attention_key(work)}"
                rows.append(Row(work, seconds, form, f"h{heads}", regime="serving"))
    return rows


@pytest.mark.parametrize(("longest", "borrowed"), [(1.0, True), (2.0, False)])
def test_only_unequal_contexts_tell_what_unequal_contexts_cost(
    longest: float, borrowed: bool
) -> None:
    (result,) = calibrate(DEVICE, decode_rows("bf16", longest))
    table = as_table(result, "test")
    assert ("borrowed" in table) == borrowed
    if borrowed:
        lender = load_sheet("rtx_pro_6000").calibration["decode"]["bf16_128"]
        assert table["skew"] == lender["skew"]


def borrowed() -> Iterator[tuple[str, float, str]]:
    """Of every coefficient that a device file notes as borrowed: where, its value, and whence."""
    for name in device_names():
        for family in FORMS:
            tables: dict[str, Any] = load_sheet(name).calibration.get(family, {})
            for key, table in tables.items():
                for coefficient, source in table.get("borrowed", {}).items():
                    where = f"{name}: {family}.{key} {coefficient}"
                    yield where, completed(tables, key, where)[coefficient], source


def test_what_device_files_borrow_is_what_they_say_it_is() -> None:
    found = list(borrowed())
    assert len(found) > 10
    for where, value, source in found:
        form, _, lender = source.partition(" of ")
        family, _, key = form.partition(".")
        tables = load_sheet(lender).calibration[family]
        assert value == completed(tables, key, source)[where.split()[-1]], where


def test_one_kernel_for_both_phases_leaves_eight_bit_caches_alone() -> None:
    rows = decode_rows("bf16") + decode_rows("fp8")
    forms = [result.form for result in calibrate(DEVICE, rows, joint=True)]
    assert forms == ["decode.fp8_128", "prefill.bf16_128"]


def test_expanded_keys_have_an_entry_of_their_own_or_the_plain_ones() -> None:
    costs = load_device("h100_sxm").cost_model
    assert isinstance(costs, CalibratedCost)
    entries = costs.entries["prefill"]
    assert costs.cost(EXPANDED).source is Source.CALIBRATED
    assert costs.cost(PLAIN).source is Source.ANALYTICAL  # by heads of 128: nearest in width
    without = {key: entry for key, entry in entries.items() if not key.endswith("expanded")}
    bare = replace(costs, entries={**costs.entries, "prefill": without}, _found={})
    assert bare.cost(EXPANDED).seconds < bare.cost(PLAIN).seconds < costs.cost(EXPANDED).seconds
    assert costs.cost(PLAIN) == bare.cost(PLAIN)
