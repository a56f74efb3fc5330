"""A marker for tests that compare with `transformers`; they are skipped unless it and torch are installed."""

import importlib.util

import pytest

needs_transformers = pytest.mark.skipif(
  any(importlib.util.find_spec(name) is None for name in ('transformers', 'torch')),
  reason='needs transformers and torch',
)
