"""Drives the continuous batching of transformers through timed loads; run by the engine's Python.

``python transformers_client.py JOB``: job, runs and answers are those of ``vllm_client``, and so
are the names of the engine's options. The model has random weights; it runs in a thread of this
process. Imports torch and transformers, nothing of servesim.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from engine_side import say
from transformers_recorder import Recorder

#: Options by vLLM's names, and what transformers calls them.
_CALLED = {
    "max_num_seqs": "max_requests_per_batch",
    "max_num_batched_tokens": "max_batch_tokens",
    "enable_prefix_caching": "allow_block_sharing",
    "async_scheduling": "use_async_batching",
}
#: Schedulers by servesim's names, and what transformers calls them.
SCHEDULERS = {
    "transformers-fifo": "fifo",
    "transformers-fifo-5.17": "fifo",
    "transformers-prefill-first": "prefill_first",
}
#: What has no meaning here, or is read by name.
_OTHERS = (
    "load_format",
    "skip_tokenizer_init",
    "max_model_len",
    "dtype",
    "enforce_eager",
    "block_size",
    "num_gpu_blocks_override",
    "scheduling_policy",
    "attn_implementation",
)


def _model(folder: str, device: str, options: dict[str, Any]) -> Any:
    """A model of random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, options["dtype"]),
            attn_implementation=options.get("attn_implementation", "sdpa"),
        ).eval()


def _batching(options: dict[str, Any]) -> Any:
    """The engine's own configuration.

    Raises:
        ValueError: an option that transformers does not have.
    """
    from transformers import ContinuousBatchingConfig

    given = {_CALLED.get(name, name): v for name, v in options.items() if name not in _OTHERS}
    known = ContinuousBatchingConfig.__dataclass_fields__
    for name in given:
        if name not in known:
            raise ValueError(f"transformers has no option {name!r}")
    if "auto_switch_to_flash" in known:
        given.setdefault("auto_switch_to_flash", False)  # what was asked for is what runs
    paged = "page_size" if "page_size" in known else "block_size"
    policy = options["scheduling_policy"]
    if policy not in SCHEDULERS:
        raise ValueError(f"transformers schedules by {' or '.join(SCHEDULERS)}, not {policy}")
    return ContinuousBatchingConfig(
        **given,
        **{paged: options["block_size"]},
        # vLLM, whose option this is, counts a block that is never used.
        num_blocks=options["num_gpu_blocks_override"] - 1,
        scheduler_type=SCHEDULERS[policy],
        use_cuda_graph=False if options["enforce_eager"] else None,
    )


def _manager(model: Any, options: dict[str, Any]) -> Any:
    """A running engine that is recorded."""
    from transformers import GenerationConfig

    wanted = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    manager = model.init_continuous_batching(wanted, _batching(options))
    manager.batch_processor = processor = manager._create_batch_processor()
    settled = manager.continuous_batching_config
    if settled.use_async_batching:
        raise ValueError("asynchronous batching is not recorded: give async_scheduling = false")
    if getattr(model.config.get_text_config(), "sliding_window", None):
        raise ValueError("a model with sliding windows is not recorded")
    shared = getattr(processor.cache, "use_prefix_sharing", settled.allow_block_sharing)
    Recorder(
        processor,
        {
            "num_gpu_blocks": processor.cache.num_blocks + 1,
            "block_size": options["block_size"],
            "max_num_batched_tokens": processor.max_batch_tokens,
            "max_num_seqs": settled.max_requests_per_batch,
            "enable_prefix_caching": shared,
            "async_scheduling": False,
            "fused": False,
            "attn_implementation": model.config._attn_implementation,
        },
    )
    manager.start()
    return manager


def _run(manager: Any, run: dict[str, Any]) -> dict[str, Any]:
    start = time.monotonic() + 0.2
    sent: dict[str, float] = {}
    done: dict[str, Any] = {}
    for i, (arrival, prompt, output) in enumerate(run["requests"]):
        time.sleep(max(0.0, start + arrival - time.monotonic()))
        name = f"{run['name']}:{i}"
        sent[name] = time.monotonic()
        manager.add_request(prompt, name, output, record_timestamps=True)
        while len(done) < len(sent) and run["in_turn"]:
            _receive(manager, done)
    while len(done) < len(sent):
        _receive(manager, done)
    time.sleep(0.3)
    lengths = [len(prompt) for _, prompt, _ in run["requests"]]
    rows = []
    for (name, at), tokens in zip(sent.items(), lengths, strict=True):
        result = done[name]
        times = result.timestamps  # of one that waited again, since then
        rows.append([name, at, times[0], times[-1], tokens, len(result.generated_tokens)])
    return {"run": run["name"], "start": start, "requests": rows}


def _receive(manager: Any, done: dict[str, Any]) -> None:
    """Wait for a request to finish, and keep what became of it.

    Raises:
        RuntimeError: the engine stopped, or failed it.
    """
    result = manager.get_result(timeout=1.0)
    if result is None:
        if not manager.is_running():
            raise RuntimeError("the engine's thread ended")
    elif result.error is not None:
        raise RuntimeError(result.error)
    else:
        done[result.request_id] = result


def _main(job: dict[str, Any]) -> None:
    import torch
    from transformers import __version__

    begun = time.monotonic()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    manager = _manager(_model(job["model"], job["device"], job["options"]), job["options"])
    if job["client_cores"]:
        os.sched_setaffinity(0, set(job["client_cores"]))
    say({"ready": __version__, "seconds": time.monotonic() - begun})
    try:
        for line in sys.stdin:
            say(_run(manager, json.loads(line)))
    finally:
        manager.stop(block=True)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
