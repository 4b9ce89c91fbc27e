"""Training over two processes, which talk over the loopback, is training in one."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


ROOT = Path(__file__).parents[2]
PLAIN = {"seed": 1, "kill_at": 0, "folder": "", "sharded": True, "members": 4}


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def launch(out, processes, **settings):
    """Start all processes; the first that dies takes the others with it, as a scheduler would."""
    port = free_port()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = []
    for process in range(processes):
        given = {**PLAIN, **settings, "out": str(out), "port": port}
        given |= {"process": process, "processes": processes}
        command = [sys.executable, str(ROOT / "tests/training/worker.py"), json.dumps(given)]
        with open(f"{out}-{process}.log", "w") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    codes = []
    for worker in reversed(started):
        codes.append(worker.wait(timeout=900))
        if codes[-1]:
            for other in started:
                other.kill()
    return codes


def result(out, process=0):
    with np.load(f"{out}-{process}.npz") as found:
        return {name: found[name] for name in found.files}


def log(out):
    return "".join(path.read_text()[-2000:] for path in out.parent.glob(f"{out.name}-*.log"))


def assert_close(one, other, tolerance):
    for name, value in one.items():
        scale = np.max(np.abs(value))
        assert np.max(np.abs(value - other[name])) <= tolerance * scale, name


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of a single process."""
    out = tmp_path_factory.mktemp("one") / "run"
    assert launch(out, 1) == [0], log(out)
    return result(out)


def test_examples_of_a_batch_shared_out_are_one_process(tmp_path, one):
    two, folder = tmp_path / "two", str(tmp_path / "checkpoint")
    assert launch(two, 2, folder=folder, sharded=False) == [0, 0], log(two)
    assert_close(one, result(two), 1e-4)
    assert_close(result(two, 0), result(two, 1), 0)


def test_members_shared_out_are_one_process_and_survive_a_kill(tmp_path, one):
    # One of them is killed without warning; both start again, each from the shards it has.
    two, settings = tmp_path / "two", {"seed": 2, "folder": str(tmp_path / "checkpoints")}
    codes = launch(two, 2, kill_at=12, **settings)
    assert codes[0] == -signal.SIGKILL, log(two)
    assert not (tmp_path / "two-0.npz").exists()
    assert launch(two, 2, **settings) == [0, 0], log(two)
    assert_close(one, result(two), 1e-4)
    assert_close(result(two, 0), result(two, 1), 0)
