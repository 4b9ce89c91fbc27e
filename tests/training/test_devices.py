"""Eight devices, simulated on the CPU.

Their number is fixed when JAX starts, so `on_eight_devices.py` runs in a process of its own.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_on_eight_devices():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    file = pathlib.Path(__file__).with_name("on_eight_devices.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", str(file)]
    done = subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE)  # none skipped or left out
