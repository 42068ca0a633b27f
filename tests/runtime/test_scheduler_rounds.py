"""A round through the running sequences, some of which are preempted on the way."""

from __future__ import annotations

from runtime_runs import request

from servesim.runtime.plan import Grant
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
