"""Text encoders: item texts to unit vectors. `choice` knows what `sids.encoder` may name."""

from data_prep.encoders.choice import encode, input_files, kind

__all__ = ['encode', 'input_files', 'kind']
