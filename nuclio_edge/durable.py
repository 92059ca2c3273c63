"""A small file that is replaced as a whole: after a power cut it has the old content or the new one."""

from __future__ import annotations

import os


def replace_file(path: str, content: bytes) -> None:
    """Put `content` in the place of the file at `path`, on the disk when this returns; OSError leaves the old one.

    It waits for the disk twice (file, folder): not for the loop's thread while events flow.
    """
    beside = f"{path}.new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(beside, path)
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
