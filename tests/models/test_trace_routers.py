"""Routers that engines have a kernel for, and those that run as they are written."""

from __future__ import annotations

from servesim.models.load import load_graph


def test_a_router_without_a_kernel_runs_operation_by_operation() -> None:
    def between(model: str) -> list[str]:
        ops = [op for block in load_graph(model).blocks for op in block.ops]
        names = [op.label or op.name for op in ops]
        gate = next(i for i, name in enumerate(names) if name.startswith("gate"))
        return names[gate + 1 : names.index("experts")]

    assert between("mistralai/Mixtral-8x7B-v0.1") == ["router"]
    mixer = between("microsoft/Phi-mini-MoE-instruct")
    # Two masked maxima, each with its threshold, mask, softmax and weight.
    assert len(mixer) > 15 and sum(name.startswith("router") for name in mixer) == 2
