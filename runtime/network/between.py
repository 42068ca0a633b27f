"""The network between the instances of a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from servesim.errors import InputError
from servesim.hardware.topology import Topology
from servesim.runtime.instance import Instance
from servesim.runtime.roles import Role, check_roles


def network_between(instances: Sequence[Instance], given: Topology | None) -> Topology:
    """The network between instances, checked against their roles.

    Raises:
        InputError: roles that need each other, names or links that they have not.
    """
    check_roles([one.role for one in instances])
    names = tuple(one.name for one in instances)
    if all(one.role is Role.BOTH for one in instances):
        return given or Topology(tuple(dict.fromkeys(names)))
    if given is None:
        raise InputError(
            "instances that hand over to others need a network between them ([network] bandwidth)"
        )
    if len(set(names)) < len(names):
        raise InputError("instances that hand over to others need different names")
    return given
