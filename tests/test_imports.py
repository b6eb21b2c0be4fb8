"""Which room may import which: the floors in ``pyproject.toml``."""

import subprocess
import sys

from tests.conftest import PROJECT


def test_a_room_imports_only_from_the_floors_below() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout
