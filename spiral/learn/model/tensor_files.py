"""Tensors in safetensors files, of which each rank reads and writes the rows that it holds.

A file of whole tensors is one that any library reads. A file with some rows of its tensors also says, in its metadata,
which rows these are.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from spiral.learn.model.sharding import local_rows, untied
from spiral.machine import usable_cores

FIRST_ROWS = "first_rows"
GATHERED_BYTES = 2**27
"""Size of files with tensors that are made whole for them."""
MOST_FILES = 4
"""So many files are written at once at most."""


class TensorFiles:
    """The tensors in the files `<stem>*.safetensors` of a directory, each in one file or in several by rows."""

    def __init__(self, directory: Path, stem: str) -> None:
        self.directory = directory
        self._pieces: dict[str, list[tuple[int, int, Path]]] = defaultdict(list)  # first row, number of rows, file
        self.num_bytes: dict[str, int] = defaultdict(int)
        for path in sorted(directory.glob(f"{stem}*.safetensors")):
            with safe_open(path, "pt") as file:
                first_rows = json.loads((file.metadata() or {}).get(FIRST_ROWS, "{}"))
                for name in file.keys():  # noqa: SIM118 -- not a mapping
                    piece = file.get_slice(name)
                    shape = piece.get_shape()
                    self._pieces[name].append((first_rows.get(name, 0), shape[0], path))
                    self.num_bytes[name] += piece[:0].element_size() * torch.Size(shape).numel()

    def __contains__(self, name: str) -> bool:
        return name in self._pieces

    def rows(self, name: str, first: int, count: int) -> torch.Tensor:
        """The rows of a tensor from number `first` on. Raises ValueError if the files do not hold them all."""
        rows: torch.Tensor | None = None
        num_read = 0
        for begin, num, path in sorted(self._pieces[name]):
            low, high = max(first, begin), min(first + count, begin + num)
            if low >= high:
                continue
            with safe_open(path, "pt") as file:
                piece: torch.Tensor = file.get_slice(name)[low - begin : high - begin]
            if len(piece) == count:
                return piece
            if rows is None:  # one piece at a time is held beside the whole, not all of them
                rows = piece.new_empty(count, *piece.shape[1:])
            rows[low - first : high - first] = piece
            num_read += len(piece)
        if rows is None or num_read != count:
            raise ValueError(f"{self.directory} does not hold rows {first} to {first + count - 1} of {name}")
        return rows

    def whole(self, name: str) -> torch.Tensor:
        """All rows of a tensor."""
        return self.rows(name, 0, sum(num for _, num, _ in self._pieces[name]))


@torch.no_grad()
def read_rows(into: Mapping[str, torch.Tensor], files: TensorFiles) -> None:
    """Read this rank's rows of each tensor. Raises ValueError for tensors that the files do not hold."""
    held = held_rows(into)
    if missing := [name for name in held if name not in files]:
        raise ValueError(
            f"{files.directory} holds no {missing[0]}" + f" and {len(missing) - 1} more" * (len(missing) > 1)
        )
    for name, (rows, first) in held.items():
        if rows.numel():
            rows.copy_(files.rows(name, first, len(rows)))


Rows = Mapping[str, tuple[torch.Tensor, int]]
"""For each tensor, by name, the rows that this rank holds, and the number of the first of them."""


def held_rows(tensors: Mapping[str, torch.Tensor]) -> Rows:
    """This rank's rows of each tensor, sharing memory with it. A tied tensor appears once."""
    return {name: local_rows(tensor) for name, tensor in untied(tensors).items()}


def write_rows(rows: Rows, path: Path) -> None:
    """Write the rows of one rank. Tensors in main memory are not copied first."""
    first_rows = {name: first for name, (_, first) in rows.items() if first}
    metadata = {"format": "pt"} | ({FIRST_ROWS: json.dumps(first_rows)} if first_rows else {})
    save_file({name: local.cpu().contiguous() for name, (local, _) in rows.items()}, path, metadata=metadata)


def write_whole(
    num_bytes: Mapping[str, int],
    get: Callable[[str], torch.Tensor],
    directory: Path | None,
    stem: str,
    *,
    most_bytes: int | None,
) -> None:
    """Write the tensors that `get` returns, in Hugging Face's format, to one file or to files of about `most_bytes`.

    One thread copies 1 to 2 GB/s into a file. A machine of at least four cores therefore writes several files at once,
    while the tensors of the next are gathered; with fewer cores, those of one file are held at a time. Without a
    `directory` nothing is written: `get` is only called, in the same order, by ranks that take part in gathering.
    """
    at_once = min(MOST_FILES, len(usable_cores()) // 4)
    groups = _grouped(num_bytes, most_bytes or sum(num_bytes.values()))
    where: dict[str, str] = {}
    being_written: deque[Future[None]] = deque()
    with ThreadPoolExecutor(max(1, at_once)) as threads:
        for number, names in enumerate(groups, 1):
            part = "" if len(groups) == 1 else f"-{number:05d}-of-{len(groups):05d}"
            file = f"{stem}{part}.safetensors"
            tensors = {name: get(name).contiguous() for name in names}
            if directory is not None:
                being_written.append(threads.submit(save_file, tensors, directory / file, metadata={"format": "pt"}))
                where |= dict.fromkeys(names, file)
            del tensors  # before those of the next file are gathered
            while len(being_written) > at_once:
                being_written.popleft().result()
        for written in being_written:
            written.result()
    if directory is not None and len(groups) > 1:
        index = {"metadata": {"total_size": sum(num_bytes.values())}, "weight_map": where}
        (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _grouped(num_bytes: Mapping[str, int], most_bytes: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, num in num_bytes.items():
        if groups[-1] and size + num > most_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += num
    return groups
