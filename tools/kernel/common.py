# SPDX-License-Identifier: Apache-2.0
"""What the parts of tools/test-kernel share."""

import shlex
import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
WORK = PROJECT / "build" / "test-kernel"


class Trouble(Exception):
    """Why the machine could not be started; the text says what to do."""


def note(text):
    print(f"test-kernel: {text}", flush=True)


def call(*command, **options):
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False, **options)
    if done.returncode != 0:
        raise Trouble(f"{shlex.join(map(str, command))} ended with status {done.returncode}:\n"
                      f"{(done.stdout + done.stderr).strip()}")
    return done.stdout
