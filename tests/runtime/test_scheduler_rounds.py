"""A round through the running sequences, some of which are preempted on the way; admission."""

from __future__ import annotations

from runtime_runs import request

from servesim.runtime.admission import admit
from servesim.runtime.config import EngineConfig
from servesim.runtime.deciding import build_scheduler
from servesim.runtime.kv import build_cache
from servesim.runtime.plan import Grant, Plan
from servesim.runtime.sequence import Sequence
from servesim.runtime.visited import Round


def test_what_a_preempted_sequence_got_is_to_be_had_again() -> None:
    first, second, third = (Sequence(request(n, 0.0, 9, 9), n, 16) for n in range(3))
    turn = Round([first, second, third], budget=10)
    turn.serve(Grant(first, 0, 4))
    turn.position = 1
    turn.drop(third)  # not served yet
    assert (turn.order, turn.position, turn.budget) == ([first, second], 1, 6)
    turn.drop(first)  # served before the one whose turn it is
    assert (turn.order, turn.position, turn.budget) == ([second], 0, 10)
    assert turn.grants == {}


def test_what_finds_no_room_in_a_large_step_may_find_some_in_a_small_one() -> None:
    drafts = {"method": "eagle", "num_speculative_tokens": 3}
    config = EngineConfig(max_num_seqs=4, max_num_batched_tokens=64, speculative_config=drafts)
    scheduler = build_scheduler(config, build_cache(config, 3))
    scheduler.add(Sequence(request(0, 0.0, 32, 9), 0, 16))
    plan = Plan()
    admit(scheduler, plan, 64)  # 32 tokens, and room for three drafts: a block more than there is
    assert not plan.prefills
    admit(scheduler, plan, 16)
    assert [grant.new for grant in plan.prefills] == [16]
