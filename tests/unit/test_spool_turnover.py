"""A group that goes on in the next file of the spool: the records before that file's beginning are as needed as any."""

from __future__ import annotations

from _thread import get_ident
from typing import TYPE_CHECKING

import pytest

from nuclio_edge.core.loop import Loop
from nuclio_edge.spool.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("before", [0, 60])
def test_a_group_that_goes_on_in_the_next_file_is_found_whole(tmp_path: Path, before: int) -> None:
    loop = Loop()
    loop.thread = get_ident()
    spool = Spool(loop, str(tmp_path / "spool"), size=1 << 20)
    spool.open()
    for _ in range(before):  # fill the first file with what is settled by now
        spool.append(1, "a", b"x" * 1500)
    for _ in range(50):
        loop.turn(2)
    for number in range(1, before + 1):
        spool.settle(number)
    ids = [spool.append(1, "a", b"%04d" % number + b"x" * 1500) for number in range(250)]
    spool.close()
    loop.close()
    again = Loop()
    again.thread = get_ident()
    spool = Spool(again, str(tmp_path / "spool"), size=1 << 20)
    spool.open()
    found = spool.records(0, 1 << 30)
    assert [record.id for record in found] == ids
    assert spool.totals()["pending"] == 250
    assert spool.differences() == []
    spool.close()
    again.close()
