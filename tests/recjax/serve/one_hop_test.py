"""One-hop counting for single histories, against the baseline of the evaluation."""

from recjax.baselines import transitions
from recjax.baselines.split import Split
from recjax.serve.one_hop import OneHop


def test_it_recommends_as_the_baseline_does(rated):
  _, dataset = rated
  histories, _ = dataset.histories_and_targets('test')
  split = Split(dataset.train, dataset.train, histories, dataset.num_items, dataset.num_items)
  ranked_UK = transitions.recommend(split)
  one_hop = OneHop(dataset)
  ids = [item['id'] for item in dataset.items]
  for u in range(len(histories)):
    history = [ids[i] for i in histories[u]]
    expected = [ids[i] for i in ranked_UK[u] if i >= 0]
    assert one_hop.recommend(history, 4) == expected[:4]
    assert one_hop.recommend(['gone', *history], 99) == expected
    hidden = {*expected[:2], 'gone'}
    assert one_hop.recommend(history, 3, hidden) == expected[2:5]
  assert one_hop.recommend([], 5) == []
