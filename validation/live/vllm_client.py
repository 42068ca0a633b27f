"""Drives vLLM's async engine through timed loads; run as a script by the engine's Python.

``python vllm_client.py JOB`` where the JSON text ``JOB`` holds ``model`` (a folder), ``device``
(``cpu`` or ``cuda``), ``options`` (engine arguments) and ``client_cores`` (or null). Every line it
then reads is a run: a ``name``, ``requests`` of ``[arrival_s, prompt_token_ids, output_tokens]``,
and whether they go ``in_turn``: each once the one before it is answered. It answers with one line
when the engine is ready, and one a run with the times its client saw. Imports vLLM, nothing of
servesim.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from engine_side import say


async def _request(
    engine: Any, name: str, request: list[Any], start: float, times: list[Any]
) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    arrival, prompt, output = request
    wanted = SamplingParams(
        max_tokens=output,
        ignore_eos=True,
        detokenize=False,
        temperature=0.0,
        output_kind=RequestOutputKind.DELTA,
    )
    await asyncio.sleep(max(0.0, start + arrival - time.monotonic()))
    sent, first, tokens = time.monotonic(), 0.0, 0
    async for part in engine.generate({"prompt_token_ids": prompt}, wanted, name):
        first = first or time.monotonic()
        tokens += len(part.outputs[0].token_ids)
    times.append([name, sent, first, time.monotonic(), len(prompt), tokens])


async def _run(engine: Any, run: dict[str, Any]) -> dict[str, Any]:
    await engine.reset_prefix_cache()
    start = time.monotonic() + 0.2
    times: list[Any] = []
    names = [f"{run['name']}:{i}" for i in range(len(run["requests"]))]
    calls = [
        _request(engine, name, request, start, times)
        for name, request in zip(names, run["requests"], strict=True)
    ]
    if run["in_turn"]:
        for call in calls:
            await call
    else:
        await asyncio.gather(*calls)
    times.sort(key=lambda row: int(row[0].rsplit(":", 1)[1]))
    await asyncio.sleep(0.3)
    return {"run": run["name"], "start": start, "requests": times}


async def _main(job: dict[str, Any]) -> None:
    from vllm import __version__
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    begun = time.monotonic()
    arguments = AsyncEngineArgs(
        model=job["model"],
        scheduler_cls="vllm_recorder.RecordingScheduler",
        **job["options"],
    )
    engine = AsyncLLM.from_engine_args(arguments)
    if job["client_cores"]:
        os.sched_setaffinity(0, set(job["client_cores"]))
    say({"ready": __version__, "seconds": time.monotonic() - begun})
    try:
        for line in sys.stdin:
            say(await _run(engine, json.loads(line)))
    finally:
        engine.shutdown()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
