"""A fitted residual quantizer: what gives item vectors, today's and tomorrow's, their codes."""

from collections.abc import Iterator
import dataclasses
import hashlib
import io
import zipfile

from etils import epath
import numpy as np
import threadpoolctl

FILE = 'quantizer.npz'
_BLOCK = 16_384  # rows of vectors at a time
_PARTS = ('encoder', 'codebook', 'decoder')

Layers = tuple[tuple[np.ndarray, np.ndarray], ...]  # of each layer a kernel [D_in, D_out], a bias


@dataclasses.dataclass(frozen=True, eq=False)
class Quantizer:
  """An encoder, one codebook a level, a decoder; frozen.

  Each level's code names the row of its codebook nearest to what the levels before it left of the
  encoded vector (residual quantization: Lee et al., "Autoregressive Image Generation using Residual
  Quantization", CVPR 2022, section 3.1). Residual k-means has one linear layer on either side,
  RQ-VAE several with ReLU between them. All arrays are float32.

  Attributes:
    encoder: layers from vectors `[D]` to latents `[Z]`.
    codebooks: for each of L levels `[C, Z]`; C may differ.
    decoder: layers from latents back to vectors.
  """

  encoder: Layers
  codebooks: tuple[np.ndarray, ...]
  decoder: Layers

  @property
  def width(self) -> int:
    """D of the vectors that this quantizer was fitted to."""
    return self.encoder[0][0].shape[0]

  @property
  def fingerprint(self) -> str:
    """A short hash of all arrays: equal for quantizers that give every vector the same codes."""
    sha = hashlib.sha256()
    for name, array in self._arrays():
      sha.update(f'{name} {array.shape}'.encode() + array.tobytes())
    return sha.hexdigest()[:16]

  def encode(self, vectors_ID: np.ndarray) -> np.ndarray:
    """Latents float32 `[I, Z]` of vectors `[I, D]`.

    Raises:
      ValueError: another D, or a vector that is not finite.
    """
    if vectors_ID.ndim != 2 or vectors_ID.shape[1] != self.width:
      raise ValueError(
        f'vectors must be [items, {self.width}] as when the quantizer was fitted; '
        f'got {list(vectors_ID.shape)}. Set --config.sids.source and --config.sids.encoder as then'
      )
    if not np.isfinite(vectors_ID).all():
      raise ValueError('item vectors must be finite; got NaN or infinity')
    return _run(self.encoder, vectors_ID)

  def decode(self, latents_IZ: np.ndarray) -> np.ndarray:
    """Vectors float32 `[I, D]` of latents `[I, Z]`."""
    return _run(self.decoder, latents_IZ)

  def quantized(self, codes_IL: np.ndarray) -> np.ndarray:
    """Latents float32 `[I, Z]` that codes `[I, l]` of the first l levels stand for."""
    latents_IZ = np.zeros((len(codes_IL), self.codebooks[0].shape[1]), np.float32)
    for level in range(codes_IL.shape[1]):
      latents_IZ += self.codebooks[level][codes_IL[:, level]]
    return latents_IZ

  def assign(self, vectors_ID: np.ndarray) -> np.ndarray:
    """Codes int32 `[I, L]` of vectors `[I, D]`: at each level the nearest row, the first of equals.

    Raises:
      ValueError: as `encode`.
    """
    return assign_latents(self.encode(vectors_ID), self.codebooks)

  def last_distances(self, vectors_ID: np.ndarray, codes_IL: np.ndarray) -> np.ndarray:
    """How far each vector is from every code of the last level, given its codes before.

    Args:
      vectors_ID: floats `[I, D]`.
      codes_IL: int `[I, L]`; the last column is not read.

    Returns:
      Squared distances in the latent space, float32 `[I, C]`, C of the last level.

    Raises:
      ValueError: as `encode`.
    """
    residual_IZ = self.encode(vectors_ID) - self.quantized(codes_IL[:, :-1])
    with threadpoolctl.threadpool_limits(1):
      distances_IC = _distances(residual_IZ, self.codebooks[-1])
    distances_IC += (residual_IZ**2).sum(axis=1, keepdims=True)
    return np.maximum(distances_IC, 0)

  def save(self, folder: epath.PathLike) -> None:
    """Writes quantizer.npz, whole or not at all."""
    folder = epath.Path(folder)
    buffer = io.BytesIO()  # np.savez seeks, which files in the cloud cannot
    np.savez(buffer, **dict(self._arrays()))
    partial = folder / f'.{FILE}.partial'
    partial.write_bytes(buffer.getvalue())
    partial.replace(folder / FILE)

  @classmethod
  def load(cls, folder: epath.PathLike) -> 'Quantizer':
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: the folder holds no quantizer.
      ValueError: the file is damaged or no quantizer.
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
  """Codes int32 `[I, L]` of latents float32 `[I, Z]`: greedily the nearest row, level after level."""
  codes_IL = np.empty((len(latents_IZ), len(codebooks)), np.int32)
  # One thread: then the same bytes on machines with more cores or fewer.
  with threadpoolctl.threadpool_limits(1):
    for begin in range(0, len(latents_IZ), _BLOCK):
      residual_BZ = latents_IZ[begin : begin + _BLOCK].astype(np.float32)
      for level, book_CZ in enumerate(codebooks):
        chosen_B = _distances(residual_BZ, book_CZ).argmin(axis=1)
        residual_BZ -= book_CZ[chosen_B]
        codes_IL[begin : begin + _BLOCK, level] = chosen_B
  return codes_IL


def _distances(residual_BZ: np.ndarray, book_CZ: np.ndarray) -> np.ndarray:
  """Squared distances less each residual's own square: `[B, C]`."""
  return (book_CZ**2).sum(axis=1)[None, :] - 2 * (residual_BZ @ book_CZ.T)


def _run(layers: Layers, x_ID: np.ndarray) -> np.ndarray:
  out = np.empty((len(x_ID), layers[-1][0].shape[1]), np.float32)
  with threadpoolctl.threadpool_limits(1):
    for begin in range(0, len(x_ID), _BLOCK):
      x_BD = x_ID[begin : begin + _BLOCK].astype(np.float32)
      for n, (kernel, bias) in enumerate(layers):
        x_BD = x_BD @ kernel + bias
        if n < len(layers) - 1:
          x_BD = np.maximum(x_BD, 0)
      out[begin : begin + _BLOCK] = x_BD
  return out


def _layer(read: dict[str, np.ndarray], part: str, n: int) -> tuple[np.ndarray, np.ndarray]:
  return read[f'{part}_{n}_kernel'], read[f'{part}_{n}_bias']
