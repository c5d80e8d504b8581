"""Scratch directories: private, and removed when their process has died, but never while it lives."""

import signal
import stat
import subprocess
import sys
from pathlib import Path

from spiral.storage.shared_memory import ScratchDir, remove_stale

HOLDER = """
import sys, time
from pathlib import Path
from spiral.storage.shared_memory import ScratchDir
scratch = ScratchDir(Path(sys.argv[1]))
(scratch.path / "weights").write_text("w")
print(scratch.path, flush=True)
time.sleep(60)
"""


def killed(parent: Path) -> Path:
    """The scratch directory of a process that was killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(parent)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    path = Path(holder.stdout.readline().strip())
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    return path


def test_a_scratch_directory_is_private_and_has_a_random_name(tmp_path: Path) -> None:
    one, other = ScratchDir(tmp_path), ScratchDir(tmp_path)
    assert one.path != other.path
    assert {one.path.parent, other.path.parent} == {tmp_path}
    assert stat.S_IMODE(one.path.stat().st_mode) == 0o700


def test_closing_removes_the_directory_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    scratch = ScratchDir(tmp_path)
    (scratch.path / "weights").write_text("w")
    scratch.close()
    scratch.close()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_end_of_a_process_removes_its_directory_and_that_of_its_fork_does_not(tmp_path: Path) -> None:
    program = HOLDER.replace("time.sleep(60)", "import os; child = os.fork(); child and os.waitpid(child, 0); ")
    program += "child and print(scratch.path.exists())"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["True"]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = killed(tmp_path)
    assert (left / "weights").exists()
    scratch = ScratchDir(tmp_path)
    assert list(tmp_path.iterdir()) == [scratch.path]


def test_directories_in_use_are_not_touched(tmp_path: Path) -> None:
    scratch = ScratchDir(tmp_path)
    remove_stale(tmp_path)
    program = "import sys; from pathlib import Path; from spiral.storage import shared_memory; "
    program += "shared_memory.remove_stale(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert scratch.path.is_dir()


def test_programs_that_the_process_starts_do_not_hold_the_lock(tmp_path: Path) -> None:
    shell = ["sh", "-c", "echo started; exec sleep 60"]
    program = HOLDER.replace("time.sleep(60)", f"import os; os.execv('/bin/sh', {shell})")
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    path = Path(child.stdout.readline().strip())
    assert (
        child.stdout.readline() == "started\n"
    )  # the kernel lets go of the lock before the new program's first instruction
    remove_stale(tmp_path)
    child.kill()
    child.communicate()
    assert not path.exists()


def test_look_alikes_are_not_removed(tmp_path: Path) -> None:
    (tmp_path / "spiral-12345678").mkdir()  # without a lock file
    killed(tmp_path / "elsewhere").rename(tmp_path / "spiral-data-of-mine")
    other_machine = killed(tmp_path / "elsewhere").rename(tmp_path / "spiral-abcd1234")
    (other_machine / ".lock").write_text("another boot id\n")
    (tmp_path / "spiral-abcdefgh").symlink_to(killed(tmp_path / "elsewhere"))
    before = sorted(tmp_path.iterdir())
    assert len(before) == 5
    remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "spiral-abcdefgh" / "weights").exists()
