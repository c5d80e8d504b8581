"""Where actors go, given what the machines of a cluster have."""

import pytest

from spiral.cluster.placement import Node, Seat, place_generators, place_learner, require_generators
from spiral.config import Config, UserError, load_config


def node(number: int, *, cpus: float = 8, gpus: float = 0) -> Node:
    return Node(
        id=f"n{number}", address=f"10.0.0.{number}", hostname=f"node{number}", cpus=cpus, gpus=gpus, is_ours=number == 1
    )


def config(*overrides: str) -> Config:
    return load_config("smoke", overrides)


def where(seats: list[Seat]) -> list[tuple[str, str]]:
    return [(seat.name, seat.node.hostname) for seat in seats]


def test_the_learner_is_placed_where_the_driver_is() -> None:
    assert where(place_learner(config(), [node(2, cpus=64), node(1)])) == [("learner", "node1")]


def test_ranks_of_the_learner_are_packed() -> None:
    seats = place_learner(config("learner.gpus=6"), [node(2, gpus=4), node(1, gpus=2), node(3, gpus=8)])
    assert [seat.node.hostname for seat in seats] == ["node1"] * 2 + ["node3"] * 4
    assert [seat.name for seat in seats] == [f"learner_{rank}" for rank in range(6)]


def test_generators_are_spread() -> None:
    seats = place_generators(config("generators.count=4"), [node(1), node(2)], place_learner(config(), [node(1)]))
    assert sorted(where(seats)) == [
        ("generator_0", "node1"),
        ("generator_1", "node2"),
        ("generator_2", "node1"),
        ("generator_3", "node2"),
    ]


def test_the_gpus_of_one_generator_are_on_one_machine() -> None:
    seats = place_generators(config("generators.count=3", "generators.gpus=4"), [node(1, gpus=6), node(2, gpus=6)], [])
    assert where(seats) == [("generator_0", "node1"), ("generator_1", "node2")]


def test_a_missing_generator_gets_the_name_that_is_free() -> None:
    cfg = config("generators.count=3")
    first = place_generators(cfg, [node(1), node(2), node(3)], [])
    assert where(place_generators(cfg, [node(1), node(2)], [first[0], first[2]])) == [("generator_1", "node2")]


def test_too_few_resources_are_one_line_that_shows_what_there_is() -> None:
    cfg = config("generators.count=4", "generators.cpus=3")
    nodes = [node(1), node(2, cpus=2)]
    seats = place_generators(cfg, nodes, [])
    with pytest.raises(UserError) as caught:
        require_generators(cfg, seats, nodes)
    assert str(caught.value) == (
        "4 generators with 3 CPUs and 0 GPUs each do not fit beside the learner: free in the cluster: "
        "node1 (8 CPUs, 0 GPUs), node2 (2 CPUs, 0 GPUs); there is room for 2"
    )
    require_generators(config("generators.count=4", "generators.min_count=2"), seats, nodes)


def test_a_learner_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 ranks of the learner with 0 CPUs and 1 GPUs each do not fit: .*node1"):
        place_learner(config("learner.gpus=2"), [node(1, gpus=1)])


def test_pinned_actors_have_cores_of_their_own() -> None:
    cfg = config("generators.count=2", "generators.cpus=2", "learner.cpus=3")
    learner = place_learner(cfg, [node(1)])
    cores = [seat.cores(range(8)) for seat in [*learner, *place_generators(cfg, [node(1)], learner)]]
    assert cores == [[0, 1, 2], [3, 4], [5, 6]]


def test_generators_that_are_not_pinned_share_the_cores_of_their_machine() -> None:
    seats = place_generators(config("generators.count=3"), [node(1)], place_learner(config(), [node(1)]))
    assert [seat.cores(range(8)) for seat in seats] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert place_learner(config(), [node(1)])[0].cores(range(8)) == list(range(8))


def test_ranks_of_the_learner_share_the_cores_of_their_machine() -> None:
    assert [seat.cores(range(4)) for seat in place_learner(config("learner.cpu_ranks=2"), [node(1)])] == [
        [0, 1],
        [2, 3],
    ]


@pytest.mark.parametrize("kind", ["learner", "generators"])
def test_learner_and_generators_have_half_the_cores_each_where_they_work_at_the_same_time(kind: str) -> None:
    cfg = config("rollout.max_staleness=1", "generators.count=2")
    learner = place_learner(cfg, [node(1)])
    generators = place_generators(cfg, [node(1)], learner)
    assert [seat.cores(range(8)) for seat in [*learner, *generators]] == [[0, 1, 2, 3], [4, 5], [6, 7]]
    assert [seat.cores(range(2)) for seat in [*learner, *generators]] == [[0], [1], [1]]
    assert [seat.cores([7]) for seat in [*learner, *generators]] == [[7], [7], [7]]
    (here, elsewhere) = place_generators(cfg, [node(2), node(1)], learner)
    assert [seat.cores(range(8)) for seat in (here, elsewhere)] == [[4, 5, 6, 7], list(range(8))]
    asked = config("rollout.max_staleness=1", f"{kind}.cpus=1")  # both are as they were asked for
    assert [seat.sharers for seat in place_learner(asked, [node(1)])] == [1]
    few = config("rollout.max_staleness=1", "generators.count=1")  # may be on the other machine
    assert place_learner(few, [node(1), node(2)])[0].cores(range(8)) == list(range(8))


def test_cores_are_those_of_the_machine_whatever_ray_was_told() -> None:
    seat = Seat(name="generator_0", node=node(1), cpus=2, gpus=0, first_core=2)
    assert seat.cores([4, 5]) == [4, 5]
    assert Seat(name="generator_1", node=node(1), cpus=0, gpus=0, part=1, sharers=4).cores([7]) == [7]
