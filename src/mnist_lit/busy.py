"""Whether other programs use the machine. Needs no torch."""

from pathlib import Path


def crowded() -> bool:
    """Return whether other programs use the cores; False if the system does not say.

    This is so if the load of the last minute is at least 1 and another thread is running now.
    """
    try:
        load = Path("/proc/loadavg").read_text().replace("/", " ").split()
    except OSError:
        return False
    return float(load[0]) >= 1 and int(load[3]) > 1
