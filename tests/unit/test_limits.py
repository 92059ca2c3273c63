"""The limits of worker processes: what enforces them, and that it does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nuclio_edge.core.loop import Loop
from nuclio_edge.workers.limits import Group, Limits, Throttle, Tree, find_tree, processor_time

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """A folder that looks like a cgroup which is ours; the kernel's part is played by nobody."""
    (tmp_path / "mnt/unit").mkdir(parents=True)
    unit = tmp_path / "mnt/unit"
    (unit / "cgroup.controllers").write_text("cpu memory pids\n")
    (unit / "cgroup.subtree_control").write_text("cpu memory\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cgroup").write_text("0::/unit\n")
    mount = f"30 23 0:26 / {tmp_path}/mnt rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    (tmp_path / "proc/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + mount)
    return unit


def test_without_limits_nothing_is_done() -> None:
    limits = Limits(None, None)
    assert limits.describe() == "no limits" and limits.data_limit() == 0


def test_without_cgroups_memory_is_held_by_rlimit_data_and_cpu_by_a_duty_cycle() -> None:
    limits = Limits(64 * MIB, 0.25)
    assert limits.describe() == "memory 64.0 MiB by RLIMIT_DATA, cpu 0.25 by a duty cycle"
    assert limits.data_limit() == 64 * MIB


def test_a_cgroup_that_is_ours_is_found_by_mount_and_membership(cgroup: Path, tmp_path: Path) -> None:
    tree = find_tree(f"{tmp_path}/proc", f"{tmp_path}/no-systemd")
    assert tree is not None and tree.path == str(cgroup)
    assert (cgroup / "nuclio-edge/cgroup.procs").read_text() == str(os.getpid())


def test_under_systemd_a_cgroup_without_the_delegate_mark_is_not_ours(cgroup: Path, tmp_path: Path) -> None:
    (tmp_path / "systemd").mkdir()
    assert find_tree(f"{tmp_path}/proc", f"{tmp_path}/systemd") is None


def test_under_systemd_a_cgroup_with_the_delegate_mark_is_ours(cgroup: Path, tmp_path: Path) -> None:
    (tmp_path / "systemd").mkdir()
    try:
        os.setxattr(cgroup, "user.delegate", b"1")
    except OSError:
        pytest.skip("this file system keeps no extended attributes")
    assert find_tree(f"{tmp_path}/proc", f"{tmp_path}/systemd") is not None


def test_without_controllers_there_is_no_cgroup_for_us(cgroup: Path, tmp_path: Path) -> None:
    (cgroup / "cgroup.controllers").write_text("pids\n")
    assert find_tree(f"{tmp_path}/proc", f"{tmp_path}/no-systemd") is None


def test_without_cgroup_2_there_is_none_for_us(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/x\n0::/\n")
    (tmp_path / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n")
    assert find_tree(str(tmp_path)) is None


class Folder(Group):
    """A group whose folder is emptied as the kernel would."""

    def _set(self, file: str, value: str) -> None:
        with open(os.path.join(self.path, file), "w", encoding="ascii") as out:
            out.write(value)


def test_a_process_gets_a_cgroup_with_its_limits(cgroup: Path) -> None:
    (cgroup / "nuclio-edge").mkdir()
    tree = Tree(str(cgroup))
    tree.controllers = ["cpu", "memory"]  # as the kernel would say
    group = Folder(tree, 4711, "f", 64 * MIB, 0.25)
    made = cgroup / "nuclio-edge-f-4711"
    assert (made / "memory.max").read_text() == str(64 * MIB)
    assert (made / "memory.oom.group").read_text() == "1"
    assert (made / "cpu.max").read_text() == "25000 100000"
    assert (made / "cgroup.procs").read_text() == "4711"
    assert not group.out_of_memory()
    (made / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n")
    assert group.out_of_memory()


def test_a_tree_without_the_needed_controller_is_not_used(cgroup: Path) -> None:
    (cgroup / "cgroup.controllers").write_text("memory\n")
    tree = Tree(str(cgroup))
    tree.controllers = ["memory"]
    assert Limits(MIB, None, tree).describe() == "memory 1.0 MiB by cgroup"
    assert Limits(MIB, 0.5, tree).describe() == "memory 1.0 MiB by RLIMIT_DATA, cpu 0.5 by a duty cycle"


def test_a_spinning_process_is_kept_to_its_share_of_a_processor() -> None:
    loop = Loop()
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], start_new_session=True) as process:
        throttle = Throttle(loop, process.pid, 0.25)
        start, used = loop.now, processor_time(process.pid)
        while loop.now - start < 3000:
            loop.turn(20)
        share = (processor_time(process.pid) - used) / 1e6 / (loop.now - start)
        throttle.close()
        process.kill()
    loop.close()
    assert share <= 0.35


def test_an_idle_process_is_asked_ever_more_seldom() -> None:
    loop = Loop()
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        throttle = Throttle(loop, process.pid, 0.25)
        before = loop.wakeups
        start = loop.now
        while loop.now - start < 1500:
            loop.turn(2000)
        assert loop.wakeups - before < 15
        throttle.close()
        process.kill()
    loop.close()
