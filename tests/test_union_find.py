"""Connected components, numbering of ids, and looking ids up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dedup.ids import Index, numbered
from pipeline.kernels.union_find import components


def twin(nodes: int, edges: list[tuple[int, int]]) -> list[int]:
    """Walk from each node, lowest first; the first to reach a node labels it."""
    near: dict[int, set[int]] = {node: set() for node in range(nodes)}
    for a, b in edges:
        near[a].add(b)
        near[b].add(a)
    labels: dict[int, int] = {}
    for node in range(nodes):
        waiting = [node]
        while waiting:
            one = waiting.pop()
            if one not in labels:
                labels[one] = node
                waiting += near[one]
    return [labels[node] for node in range(nodes)]


def labelled(nodes: int, edges: list[tuple[int, int]]) -> list[int]:
    ends = np.array(edges, np.int64).reshape(-1, 2)
    return components(nodes, ends[:, 0].copy(), ends[:, 1].copy()).tolist()


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_components_agree_with_a_walk_whatever_the_order_of_edges(case: tuple[int, list[tuple[int, int]]]) -> None:
    nodes, edges = case
    assert labelled(nodes, edges) == twin(nodes, edges) == labelled(nodes, [(b, a) for a, b in reversed(edges)])


def test_a_chain_of_a_million_nodes_is_one_component() -> None:
    nodes = np.arange(1_000_000)
    assert not components(1_000_000, nodes[:0:-1].copy(), nodes[-2::-1].copy()).any()


def test_an_edge_to_a_node_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nodes 0\.\.2, found 3\.\.3"):
        labelled(3, [(0, 3)])


# Few distinct bytes, so that first halves tie and the second ones decide.
IDS = st.lists(st.sampled_from([bytes([a]) * 8 + bytes([b]) * 8 for a in (0, 1, 255) for b in (0, 7, 128, 255)]))


@given(IDS, st.integers(0, 3))
def test_ids_are_numbered_in_byte_order(ids: list[bytes], start: int) -> None:
    distinct, places = numbered(pa.array(ids, pa.binary(16))[start:])
    assert distinct.to_pylist() == sorted(set(ids[start:]))
    assert [distinct[int(place)].as_py() for place in places] == ids[start:]


@given(IDS, IDS)
def test_ids_are_found_where_they_stand_and_nowhere_else(there: list[bytes], asked: list[bytes]) -> None:
    column = sorted(set(there))
    places = Index.of(pa.array(column, pa.binary(16))).find(pa.array(asked, pa.binary(16)))
    assert places.tolist() == [column.index(one) if one in column else -1 for one in asked]


def test_an_unsorted_column_is_no_index() -> None:
    with pytest.raises(ValueError, match="row 1 is not"):
        Index.of(pa.array([b"b" * 16, b"a" * 16], pa.binary(16)))
