"""Short hashes of values, equal on every machine."""

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
  """A short hash of a JSON-able value; equal values have equal digests, whatever the order of keys."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
