"""The content of directories of weights: a checksum of it, and its way through memory to another machine."""

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spiral.errors import RunInterrupted
from spiral.machine import usable_cores
from spiral.storage.atomic import atomic_directory
from spiral.types import WeightsRef

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Files = Mapping[str, "NDArray[np.uint8]"]
"""The content of files, by their path relative to a directory."""

CHUNK = 2**26  # bytes
MODEL_SUFFIXES = {".json", ".safetensors", ".bin", ".txt", ".model", ".jinja"}


def checksum(directory: Path) -> str:
    """A checksum of the names, sizes and contents of all files in `directory`. Raises OSError if one cannot be read."""
    return checksum_of(read_files(directory))


def checksum_of(files: Files) -> str:
    """The checksum of a directory with these files."""
    chunks = [(name, content[i : i + CHUNK]) for name, content in files.items() for i in range(0, len(content), CHUNK)]
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
    with ThreadPoolExecutor(min(8, len(usable_cores()))) as threads:  # zlib releases the interpreter's lock
        for (name, _), crc in zip(chunks, threads.map(lambda chunk: zlib.crc32(chunk[1]), chunks), strict=True):
            digest.update(f"{name}\0{crc}\0".encode())
    return digest.hexdigest()


def read_files(directory: Path, names: Iterable[str] | None = None) -> "dict[str, NDArray[np.uint8]]":
    """The files in `directory` and below, or only those in `names`, by relative path.

    They are mapped into memory: nothing is read before it is used. Symbolic links to files are followed.
    """
    import numpy as np

    if names is None:
        names = (str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    files = {}
    for name in sorted(names):
        path = directory / name
        # An empty file cannot be mapped. A plain array goes into Ray's object store without a copy in between.
        is_empty = path.stat().st_size == 0
        files[name] = np.empty(0, np.uint8) if is_empty else np.asarray(np.memmap(path, np.uint8, mode="r"))
    return files


def model_files(directory: Path) -> list[Path]:
    """The files at the top of a Hugging Face directory that the model, the adapter or the tokenizer may need."""
    return sorted(file for file in directory.iterdir() if file.suffix in MODEL_SUFFIXES and file.is_file())


def write_files(files: Files, directory: Path, *, if_exists: Literal["replace", "keep"] = "replace") -> None:
    """Write a `directory` of these files, which is complete or absent. `if_exists`: see `atomic_directory`."""
    with atomic_directory(directory, if_exists=if_exists) as aside:
        for name, content in files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(content.data)


def verify(weights: WeightsRef) -> None:
    """Raise RunInterrupted if the files of a policy version are not those that were published."""
    if not weights.checksum:
        return
    try:
        found = checksum(Path(weights.location))
    except OSError as error:
        found = str(error)
    if found != weights.checksum:
        what = f"policy version {weights.version} in {weights.location}"
        raise RunInterrupted(f"{what} is damaged: checksum {weights.checksum}, found {found}")
