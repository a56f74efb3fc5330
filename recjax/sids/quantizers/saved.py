"""A fitted residual quantizer, which assigns codes to item vectors and can be saved and loaded."""

from collections.abc import Iterator
import dataclasses
import hashlib
import io
import zipfile

from etils import epath
import numpy as np
import threadpoolctl

from recjax.runtime.files import write_whole
from recjax.sids.vectors import Vectors

FILE = 'quantizer.npz'
_BLOCK = 16_384  # vectors of a matrix product
_BLOCKS = 4  # blocks whose latents are in memory
_PARTS = ('encoder', 'codebook', 'decoder')

Layers = tuple[tuple[np.ndarray, np.ndarray], ...]  # each layer's kernel [D_in, D_out] and bias


@dataclasses.dataclass(frozen=True, eq=False)
class Quantizer:
  """An encoder, one codebook for each level, and a decoder.

  Each level's code is the codebook row nearest to the residual of the levels before it (residual
  quantization: Lee et al., "Autoregressive Image Generation using Residual Quantization", CVPR 2022, section
  3.1). Encoder and decoder are one linear layer each in residual k-means, and several layers with ReLU
  between them in RQ-VAE. All arrays are float32.

  Attributes:
    encoder: layers from vectors `[D]` to latents `[Z]`.
    codebooks: `[C, Z]` for each of L levels; C may differ.
    decoder: layers from latents to vectors.
  """

  encoder: Layers
  codebooks: tuple[np.ndarray, ...]
  decoder: Layers

  @property
  def width(self) -> int:
    """D, the width of the vectors."""
    return self.encoder[0][0].shape[0]

  @property
  def fingerprint(self) -> str:
    """A short hash of all arrays."""
    sha = hashlib.sha256()
    for name, array in self._arrays():
      sha.update(f'{name} {array.shape}'.encode() + array.tobytes())
    return sha.hexdigest()[:16]

  def encode(self, vectors_ID: np.ndarray | Vectors) -> np.ndarray:
    """Returns latents float32 `[I, Z]` of vectors `[I, D]`, which are read in blocks.

    Raises:
      ValueError: D differs from the fitted one, or a vector is not finite.
    """
    if vectors_ID.ndim != 2 or vectors_ID.shape[1] != self.width:
      raise ValueError(
        f'vectors must be [items, {self.width}] as when the quantizer was fitted; '
        f'got {list(vectors_ID.shape)}. Set --config.sids.source and --config.sids.encoder as for the fit'
      )
    return _run(self.encoder, vectors_ID, must_be_finite=True)

  def decode(self, latents_IZ: np.ndarray) -> np.ndarray:
    """Returns vectors float32 `[I, D]` of latents `[I, Z]`."""
    return _run(self.decoder, latents_IZ)

  def quantized(self, codes_IL: np.ndarray) -> np.ndarray:
    """Returns latents float32 `[I, Z]` of codes `[I, l]` of the first l levels."""
    latents_IZ = np.zeros((len(codes_IL), self.codebooks[0].shape[1]), np.float32)
    for level in range(codes_IL.shape[1]):
      latents_IZ += self.codebooks[level][codes_IL[:, level]]
    return latents_IZ

  def assign(self, vectors_ID: np.ndarray | Vectors) -> np.ndarray:
    """Returns codes int32 `[I, L]` of vectors `[I, D]`: at each level the nearest row, the first of ties.

    Raises:
      ValueError: see `encode`.
    """
    codes_IL = np.empty((len(vectors_ID), len(self.codebooks)), np.int32)
    for begin in range(0, max(len(vectors_ID), 1), _BLOCKS * _BLOCK):
      part = slice(begin, begin + _BLOCKS * _BLOCK)
      codes_IL[part] = assign_latents(self.encode(vectors_ID[part]), self.codebooks)
    return codes_IL

  def last_distances(self, vectors_ID: np.ndarray, codes_IL: np.ndarray) -> np.ndarray:
    """Computes each vector's distances to the codes of the last level, given its codes of the other levels.

    Args:
      vectors_ID: floats `[I, D]`.
      codes_IL: int `[I, L]`; the last column is not read.

    Returns:
      Squared distances in the latent space, float32 `[I, C]`, for the C codes of the last level.

    Raises:
      ValueError: see `encode`.
    """
    residual_IZ = self.encode(vectors_ID) - self.quantized(codes_IL[:, :-1])
    with threadpoolctl.threadpool_limits(1):
      distances_IC = _distances(residual_IZ, self.codebooks[-1])
    distances_IC += (residual_IZ**2).sum(axis=1, keepdims=True)
    return np.maximum(distances_IC, 0)

  def save(self, folder: epath.PathLike) -> None:
    """Writes quantizer.npz atomically."""
    buffer = io.BytesIO()  # np.savez seeks; files in buckets cannot
    np.savez(buffer, **dict(self._arrays()))
    write_whole(epath.Path(folder) / FILE, buffer.getvalue())

  @classmethod
  def load(cls, folder: epath.PathLike) -> 'Quantizer':
    """Reads the file of `save`.

    Raises:
      FileNotFoundError: the folder holds no quantizer.
      ValueError: the file is damaged or not a quantizer.
    """
    path = epath.Path(folder) / FILE
    content = path.read_bytes()
    try:
      with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        read = {name: arrays[name] for name in arrays.files}
      counts = {part: sum(name.startswith(part) for name in read) for part in _PARTS}
      if lacking := [part for part, count in counts.items() if not count]:
        raise KeyError(f'no {" and no ".join(lacking)}')
      return cls(
        encoder=tuple(_layer(read, 'encoder', n) for n in range(counts['encoder'] // 2)),
        codebooks=tuple(read[f'codebook_{n}'] for n in range(counts['codebook'])),
        decoder=tuple(_layer(read, 'decoder', n) for n in range(counts['decoder'] // 2)),
      )
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
      raise ValueError(f'{path} must hold a quantizer: {error}. Prepare the SIDs again') from error

  def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
    for part, layers in (('encoder', self.encoder), ('decoder', self.decoder)):
      for n, (kernel, bias) in enumerate(layers):
        yield f'{part}_{n}_kernel', kernel
        yield f'{part}_{n}_bias', bias
    for n, book_CZ in enumerate(self.codebooks):
      yield f'codebook_{n}', book_CZ


def assign_latents(
  latents_IZ: np.ndarray, codebooks: tuple[np.ndarray, ...] | list[np.ndarray]
) -> np.ndarray:
  """Returns codes int32 `[I, L]` of latents float32 `[I, Z]`: the nearest row, level by level."""
  codes_IL = np.empty((len(latents_IZ), len(codebooks)), np.int32)
  # One thread, so that results are bit-identical for every number of cores.
  with threadpoolctl.threadpool_limits(1):
    for begin in range(0, len(latents_IZ), _BLOCK):
      residual_BZ = latents_IZ[begin : begin + _BLOCK].astype(np.float32)
      for level, book_CZ in enumerate(codebooks):
        chosen_B = _distances(residual_BZ, book_CZ).argmin(axis=1)
        residual_BZ -= book_CZ[chosen_B]
        codes_IL[begin : begin + _BLOCK, level] = chosen_B
  return codes_IL


def _distances(residual_BZ: np.ndarray, book_CZ: np.ndarray) -> np.ndarray:
  """Returns squared distances `[B, C]` minus the squared residual, which does not change their order."""
  return (book_CZ**2).sum(axis=1)[None, :] - 2 * (residual_BZ @ book_CZ.T)


def _run(layers: Layers, x_ID: np.ndarray | Vectors, must_be_finite: bool = False) -> np.ndarray:
  out = np.empty((len(x_ID), layers[-1][0].shape[1]), np.float32)
  with threadpoolctl.threadpool_limits(1):
    for begin in range(0, len(x_ID), _BLOCK):
      x_BD = x_ID[begin : begin + _BLOCK]
      if must_be_finite and not np.isfinite(x_BD).all():
        raise ValueError('item vectors must be finite; got NaN or infinity')
      x_BD = x_BD.astype(np.float32)
      for n, (kernel, bias) in enumerate(layers):
        x_BD = x_BD @ kernel + bias
        if n < len(layers) - 1:
          x_BD = np.maximum(x_BD, 0)
      out[begin : begin + _BLOCK] = x_BD
  return out


def _layer(read: dict[str, np.ndarray], part: str, n: int) -> tuple[np.ndarray, np.ndarray]:
  return read[f'{part}_{n}_kernel'], read[f'{part}_{n}_bias']
