# SPDX-License-Identifier: Apache-2.0
"""Where saved weights are: paths of this machine, and addresses that fsspec opens."""

from __future__ import annotations

import glob
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class RemotePath:
    """The part of :class:`pathlib.Path` that weights need, for a file system of fsspec."""

    def __init__(self, files: AbstractFileSystem, path: str, info: dict[str, Any] | None = None) -> None:
        self._files, self._path = files, path.rstrip("/")
        self._known = info
        self._copy: Path | None = None

    def __str__(self) -> str:
        return str(self._files.unstrip_protocol(self._path))

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self._files, f"{self._path}/{name}")

    @property
    def name(self) -> str:
        """The last part. It leaves out what follows a question mark, as in addresses of downloads."""
        return PurePosixPath(self._path.partition("?")[0]).name

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> RemotePath:
        """The folder."""
        return RemotePath(self._files, self._path.partition("?")[0].rpartition("/")[0])

    def _info(self) -> dict[str, Any]:
        if self._known is None:
            try:
                with self._failures_told():
                    self._known = self._files.info(self._path)
            except FileNotFoundError:
                self._known = {"type": "missing"}
        return self._known

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Raise ``OSError`` in place of the errors of each store's own package."""
        try:
            yield
        except (OSError, ValueError):
            raise
        except Exception as error:
            raise OSError(f"{self} cannot be read: {error!r}") from error

    def is_file(self) -> bool:
        """Whether it exists and is a file. All addresses of the web are files."""
        return bool(self._info()["type"] == "file")

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return bool(self._info()["type"] == "directory")

    def size(self) -> int | None:
        """How many bytes the file has, if that is known."""
        size: int | None = self._info().get("size")
        return size

    def iterdir(self) -> list[RemotePath]:
        """What the folder holds. Some stores list the folder itself."""
        with self._failures_told():
            found = [RemotePath(self._files, info["name"], info) for info in self._files.ls(self._path, detail=True)]
        return [path for path in found if path._path != self._path]

    def matches(self) -> list[RemotePath]:
        """What matches this path as a pattern."""
        with self._failures_told():
            return [RemotePath(self._files, path) for path in self._files.glob(self._path)]

    def read_bytes(self) -> bytes:
        """The whole file."""
        with self._failures_told():
            content: bytes = self._files.cat_file(self._path)
        return content

    def read_range(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` to ``end``. A server that knows no ranges sends the whole file instead."""
        with self._failures_told():
            content: bytes = b"" if end == start else self._files.cat_file(self._path, start=start, end=end)
        return content

    def read_start(self, count: int) -> bytes:
        """The first bytes. A server that knows no ranges does not send much more."""
        with self._failures_told(), self._files.open(self._path, "rb", cache_type="none") as file:
            content: bytes = file.read(count)
        return content

    def local(self) -> Path:
        """A whole copy among the temporary files. It lasts as long as this object."""
        if self._copy is None:
            folder = mkdtemp(prefix="lightning-rwc-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            copy = Path(folder, self.name)
            with self._failures_told():
                self._files.get_file(self._path, str(copy))
            self._copy = copy
        return self._copy


Place: TypeAlias = Path | RemotePath


def place_at(text: str) -> Place:
    """Return the place with the path or address ``text``, whether or not it exists.

    Raises:
        ValueError: if fsspec does not know the protocol, or needs another package for it.

    """
    if "://" not in text:
        return Path(text)
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    try:
        files, path = url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise ValueError(f"`paths` has {text!r}, which cannot be opened: {error}") from error
    return Path(path) if isinstance(files, LocalFileSystem) else RemotePath(files, path)


def matches(place: Place) -> list[Place]:
    """The places that match ``place`` as a pattern."""
    if isinstance(place, Path):
        return [Path(path) for path in glob.glob(str(place), recursive=True)]
    return [*place.matches()]


def local_path(place: Place) -> Path:
    """A path at which the whole file is on this machine."""
    return place if isinstance(place, Path) else place.local()


def size(place: Place) -> int | None:
    """How many bytes a file has: None if nobody knows, or there is no such file."""
    if isinstance(place, Path):
        return place.stat().st_size if place.is_file() else None
    return place.size()


def read_range(place: Place, start: int, end: int) -> bytes:
    """The bytes of a file from ``start`` to ``end``."""
    if isinstance(place, RemotePath):
        return place.read_range(start, end)
    with place.open("rb") as file:
        file.seek(start)
        return file.read(end - start)
