"""Which board this is, by the device tree that the firmware handed to the kernel; `root` stands for / in tests.

`compatible` goes from the exact board to its processor: the first of its strings that a board's file names decides.
Where none is known the model's text is looked at, and the longest beginning that fits decides.
"""

from __future__ import annotations

import os.path

GENERIC = "generic/linux"  # what a device is taken for when nothing says more
_TREES = ("proc/device-tree", "sys/firmware/devicetree/base")


def device_tree(root: str = "/") -> tuple[list[str], str]:
    """The device tree's compatible strings, most specific first, and its model; ([], "") where there is none."""
    for tree in _TREES:
        compatible = _strings(root, tree, "compatible")
        model = _strings(root, tree, "model")
        if compatible or model:
            return compatible, model[0] if model else ""
    return [], ""


def detect(root: str = "/", where: str | None = None) -> str | None:
    """The id of this device's board, None when no file knows it."""
    compatible, model = device_tree(root)
    if not compatible and not model:
        return None
    from nuclio_edge import board  # not where there is no device tree: 60 KB

    where = where or board.folder()
    texts = {board_id: _text(board_id, where) for board_id in board.ids(where)}
    for name in compatible:
        for board_id, text in texts.items():
            # A look at the text first: to parse twenty files would take a Pi Zero half a second at each start.
            if f'"{name}"' in text and name in board.tables(board_id, where).get("detect", {}).get("compatible", ()):
                return board_id
    best, longest = None, 0
    for board_id, text in texts.items():
        if "model_prefix" not in text:
            continue
        for prefix in board.tables(board_id, where).get("detect", {}).get("model_prefix", ()):
            if len(prefix) > longest and model.startswith(prefix):
                best, longest = board_id, len(prefix)
    return best


def _strings(root: str, tree: str, name: str) -> list[str]:
    try:
        with open(os.path.join(root, tree, name), "rb") as file:
            return [part.decode("utf-8", "replace") for part in file.read(4096).split(b"\0") if part]
    except OSError:
        return []


def _text(board_id: str, where: str) -> str:
    with open(os.path.join(where, *board_id.split("/")) + ".toml", encoding="utf-8") as file:
        return file.read()
