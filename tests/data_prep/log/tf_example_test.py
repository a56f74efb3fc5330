"""Records of many examples at once, compared with protobuf."""

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from data_prep.log import tf_example


@pytest.mark.parametrize('seed', range(3))
def test_records_equal_those_of_protobuf(seed):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(0, 40, 30)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  total, ones = int(offsets[-1]), np.arange(31)
  shifts = rng.integers(0, 63, total)
  columns = {
    'many': ('int64_list', rng.integers(-1, 2, total) * (np.int64(1) << shifts), offsets),
    'man': ('int64_list', np.int32(rng.integers(-9, 300, 30)), ones),
    'scores': ('float_list', rng.normal(size=total).astype(np.float32), offsets),
    'Ü text': ('bytes_list', [b'x' * n for n in rng.integers(0, 400, total)], offsets),
    'id': ('bytes_list', ['ü'.encode() * n for n in range(30)], ones),
  }
  make = {
    'int64_list': tf_example.integers,
    'float_list': tf_example.floats,
    'bytes_list': tf_example.texts,
  }
  features = [
    (name, field, make[field](values, ends)) for name, (field, values, ends) in columns.items()
  ]
  for n, record in enumerate(tf_example.encode(features)):
    example = tf_example_pb2.Example()
    for name, (field, values, ends) in columns.items():
      getattr(example.features.feature[name], field).value.extend(values[ends[n] : ends[n + 1]])
    assert record == example.SerializeToString(deterministic=True)
  assert n == 29
