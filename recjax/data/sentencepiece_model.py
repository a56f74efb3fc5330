"""The messages of a SentencePiece model file, which this module alone imports.

The generated code of sentencepiece 0.2.3 asks for protobuf 7, and also runs with protobuf 6, which Apache Beam needs
(requirements-beam.txt). An older sentencepiece would train other pieces, so its check of the version is turned off
while the code is imported.
"""

import os

_SWITCH = 'TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK'

_given = os.environ.get(_SWITCH)
os.environ[_SWITCH] = 'true'
try:
  from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec
finally:
  if _given is None:
    del os.environ[_SWITCH]
  else:
    os.environ[_SWITCH] = _given

__all__ = ['ModelProto', 'TrainerSpec']
