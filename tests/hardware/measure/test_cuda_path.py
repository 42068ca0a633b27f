"""The whole path of ``--device cuda`` where there is no GPU: tensors stay on the CPU, events read
its clock, and every line that only a GPU would run is run.
"""

import contextlib
import time
from types import SimpleNamespace

import pytest

from servesim.cli.main import main
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm, Part
from servesim.graph.ops.indexer import Indexer
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.norm import Norm
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.ops.recurrent import Recurrent
from servesim.graph.ops.sampler import Sampler
from servesim.hardware.load import load_device
from servesim.hardware.measure import power
from servesim.hardware.measure.kernels import attention
from servesim.hardware.measure.timer import CudaTimer

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")


class OnTheCpu(torch.overrides.TorchFunctionMode):
    """Whatever is asked for on ``cuda`` is made on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


class Graph:
    """What is captured has run once; a replay takes a while."""

    def replay(self):
        time.sleep(1e-5)


@contextlib.contextmanager
def capturing(graph):
    assert isinstance(graph, Graph)
    yield


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as the kit can see."""
    about = SimpleNamespace(
        name="toy GPU", L2_cache_size=10**6, multi_processor_count=4, total_memory=10**9
    )
    generator = torch.Generator
    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda _: about,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": capturing,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch, "Generator", lambda device: generator("cpu"))
    monkeypatch.setattr(attention, "_flash", lambda *_, **__: None)
    monkeypatch.setattr("servesim.hardware.measure.probes._EDGES", {"cuda": (64, 128)})
    monkeypatch.setattr("servesim.hardware.measure.rounds._ROUND_S", 1e-4)
    monkeypatch.setattr(
        power, "_readers", lambda: iter([lambda: power.Reading(300.0, 700.0, 1.5e9)])
    )
    with OnTheCpu():
        yield


def eight_bit(n, k):
    return Gemm(n, k, parts=(Part("fp8", n, n),), dtype="fp8", weight="fp8")


@pytest.fixture
def graph():
    """One operator of every kind."""
    specs = {
        "embedding": Embedding(100, 64),
        "norm": Norm(64, addends=1, weights=64),
        "rotary": Pointwise("rotary", 64, 64),
        "activation": Pointwise("activation", 128, 64),
        "router": Pointwise("router", 4, 2),
        "up": Gemm(128, 64, parts=(Part("up", 128, 128),)),
        "eight_bit": eight_bit(128, 64),
        "odd": eight_bit(100, 64),
        "attention": Attention(4, 2, 16, 16),
        "window": Attention(4, 2, 16, 16, window=8),
        "wide": Attention(4, 4, 24, 16),
        "latent": Attention(4, 1, 80, 64, latent=True, phase="decode"),
        "experts": Experts(4, 2, 64, 32),
        "mamba": Recurrent("ssd", 4, 8, 8, 1.0, 64.0, 256.0),
        "lm_head": LmHead(1000, 64),
        "sampler": Sampler(1000),
    }
    ops = [Op(name, spec, (STREAM,)) for name, spec in specs.items()]
    return OpGraph("toy", (Block("layer", tuple(ops), (0,)),), (), 0, 0, 0.0, 64, 1000, 4096)


SIZES = ["--max-num-batched-tokens", "16", "--max-num-seqs", "2", "--max-model-len", "64"]


def profile(monkeypatch, graph, out, *more):
    monkeypatch.setattr("servesim.cli.commands.profile.load_graph", lambda _: graph)
    command = ["profile", "--device", "cuda", "--model", "toy", "--out", str(out)]
    return main([*command, *SIZES, "--seconds", "60", *more])


def test_a_gpu_is_measured_from_end_to_end(gpu, graph, monkeypatch, tmp_path, capsys):
    assert profile(monkeypatch, graph, tmp_path) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "not measured: gemm (fp8 100x64; 8 kernels): 8-bit products take multiples" in shown
    assert "torch has no kernel of latent attention for GPUs" in shown
    assert "torch has no kernels of recurrent mixers for GPUs" in shown
    assert shown.count("not measured") == 3
    assert "power: 300 W idle, 300 W busy, limit 700 W" in shown
    device = load_device(str(tmp_path / "device.toml"))
    assert (device.kind, device.cores, device.tdp_watts) == ("gpu", 4, 700.0)
    assert device.clock_hz == 1.5e9
    assert set(device.peak_flops) == {"bf16", "fp16", "fp32", "fp8"}
    assert set(device.measured) == {"gemm", "memory", "moe"}
    lines = (tmp_path / "kernels.jsonl").read_text().splitlines()
    assert "toy GPU" in lines[0]
    assert profile(monkeypatch, graph, tmp_path, "--check", "6") == 0


def test_forms_that_cannot_be_fitted_leave_a_file_of_what_was_measured(
    gpu, graph, monkeypatch, tmp_path, capsys
):
    def calibrate(*_, **__):
        raise ValueError("no convergence")

    monkeypatch.setattr("servesim.hardware.measure.fitting.calibrate", calibrate)
    assert profile(monkeypatch, graph, tmp_path, "--only", "norm,gemm") == 0
    assert "no form was fitted: ValueError: no convergence" in capsys.readouterr().out
    assert set(load_device(str(tmp_path / "device.toml")).measured) == {"gemm", "memory"}


def test_a_plan_leaves_out_what_nobody_has_a_kernel_for(monkeypatch, tmp_path, capsys):
    op = Op("index", Indexer(4, 16), (STREAM,))
    norm = Op("norm", Norm(64, weights=64), ("index",))
    toy = OpGraph("toy", (Block("layer", (op, norm), (0,)),), (), 0, 0, 0.0, 64, 1000, 4096)
    assert profile(monkeypatch, toy, tmp_path, "--plan") == 0
    shown = capsys.readouterr().out
    assert "not measured: indexer (" in shown
    assert "): no kernel for indexer" in shown
    assert "\nindexer" not in shown
    assert "\nnorm" in shown


def test_a_kernel_that_does_not_fit_is_left_out_and_memory_given_back(
    gpu, graph, monkeypatch, tmp_path, capsys
):
    freed = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))

    def flash(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 90 GiB")

    monkeypatch.setattr(attention, "_flash", flash)
    assert profile(monkeypatch, graph, tmp_path, "--only", "attention,norm") == 0
    assert "OutOfMemoryError: CUDA out of memory." in " ".join(capsys.readouterr().out.split())
    assert freed
    text = (tmp_path / "device.toml").read_text()
    assert "norm 1 x" in text


def test_calls_that_ask_the_host_run_eagerly_between_the_events(gpu, monkeypatch):
    @contextlib.contextmanager
    def refuses(_):
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuses)
    ran = []
    found = CudaTimer().seconds([lambda: ran.append("a"), lambda: ran.append("b")])
    assert ran == ["a", "b"] * 3  # to load, in the capture, between the events
    assert len(found) == 2
    assert found[0] == found[1] > 0.0


def test_grouped_products_compute_what_the_experts_one_by_one_do():
    from servesim.graph.batch import BatchShape
    from servesim.hardware.measure.bench import Room
    from servesim.hardware.measure.kernels import moe

    spec = Experts(4, 2, 64, 32)
    bench = moe.Experts(spec, Room("cpu", 1e5, 1e8))
    work = spec.work(BatchShape.of_tokens(6), "experts")
    _, x, *rest = (None, *bench.calls(work)[0].args)
    assert torch.allclose(bench._run(x, *rest), bench._grouped(x, *rest), atol=2e-4)


def test_what_the_drivers_command_prints():
    found = power.parsed("71.25, 700.00, 1980\n")
    assert found == power.Reading(71.25, 700.0, 1.98e9)
    with pytest.raises(ValueError):
        power.parsed("[N/A], 700.00, 1980")


def test_the_draw_is_read_while_work_is_queued(monkeypatch):
    queue, readings = [], []

    def read():
        readings.append(len(queue))
        return power.Reading(100.0 + 10 * len(queue), 700.0, 1e9)

    def broken():
        raise OSError("no permission")

    monkeypatch.setattr(power, "_readers", lambda: iter([broken, read]))
    found = power.draw(lambda: queue.append(1), queue.clear, each=0.1, seconds=0.0)
    assert readings == [0, 2]
    assert found == power.Draw(100.0, 120.0, 700.0, 1e9)
    assert not queue
    monkeypatch.setattr(power, "_readers", lambda: iter([broken]))
    assert power.draw(lambda: None, lambda: None, 0.1) is None
