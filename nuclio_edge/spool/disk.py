"""The file operations whose order and durability matter, in one place: what the model of power cuts stands in for.

Every method may raise OSError, and nothing else. Files are opened close-on-exec and without following links.
"""

from __future__ import annotations

import os

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class Disk:
    """The operating system's; any thread."""

    def names(self, folder: str) -> list[str]:
        """The names in a folder; none when it does not exist."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def make_folder(self, folder: str) -> None:
        """Make a folder for this user alone, and its parents; no error when it is there."""
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o700, exist_ok=True)
            self.sync_folder(os.path.dirname(folder))

    def create(self, path: str) -> int:
        """A descriptor of a new file, which must not exist."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)

    def open(self, path: str, *, write: bool = False) -> int:
        """A descriptor of a file that exists."""
        return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | _FLAGS)

    def close(self, descriptor: int) -> None:
        """Give a descriptor back."""
        os.close(descriptor)

    def allocate(self, descriptor: int, size: int) -> None:
        """Make a file of this size, and room for all of it."""
        os.posix_fallocate(descriptor, 0, size)

    def size(self, descriptor: int) -> int:
        """A file's size in bytes."""
        return os.fstat(descriptor).st_size

    def filled(self, descriptor: int, size: int) -> int:
        """Up to where an allocated file has been written, where the file system tells; else `size`.

        Writing there for the first time costs the file system an entry in its journal, at each fdatasync.
        """
        try:
            return os.lseek(descriptor, 0, os.SEEK_HOLE)
        except OSError:
            return size

    def write(self, descriptor: int, data: bytes, at: int) -> None:
        """Write all of it."""
        done = os.pwrite(descriptor, data, at)
        while done < len(data):
            done += os.pwrite(descriptor, memoryview(data)[done:], at + done)

    def read(self, descriptor: int, size: int, at: int) -> bytes:
        """So many bytes, fewer only at the end of the file."""
        data = os.pread(descriptor, size, at)
        while 0 < len(data) < size:
            more = os.pread(descriptor, size - len(data), at + len(data))
            if not more:
                break
            data += more
        return data

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes and its size outlive a power cut."""
        os.fdatasync(descriptor)

    def sync_folder(self, folder: str) -> None:
        """Return when the names in a folder outlive a power cut."""
        descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, path: str, new: str) -> None:
        """Rename a file, over one of the new name."""
        os.rename(path, new)

    def unlink(self, path: str) -> None:
        """Remove a file; no error when it is gone."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
