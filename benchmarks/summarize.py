"""Mean and spread over the runs of a sweep, from their reports.

python benchmarks/summarize.py multirun/<date>/<time> [more folders]
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml


def command_line() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    return parser


def main() -> None:
    """Print a Markdown table with one row per configuration; runs in it differ by seed alone."""
    parser = command_line()
    folders = parser.parse_args().folders
    paths = sorted(path for folder in folders for path in folder.glob("**/report.json"))
    if not paths:
        parser.error(f"no report.json below {', '.join(map(str, folders))}")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    configs: dict[tuple[str, str], tuple[Path, Any]] = {}
    for path in paths:
        report = json.loads(path.read_text(encoding="utf-8"))
        config = yaml.safe_load((path.parent / ".hydra/config.yaml").read_text(encoding="utf-8"))
        for key in ("seed", "run_dir", "logger", "ckpt_path"):
            del config[key]
        group = report["model"], config["optimizer"]["_target_"].rpartition(".")[2]
        first, before = configs.setdefault(group, (path, config))
        if config != before:
            keys = [key for key in config if config[key] != before.get(key)]
            parser.error(f"{path} and {first} differ in more than the seed: {', '.join(keys)}")
        groups[group].append(report)
    print("| network | parameters | optimizer | last epoch, % by seed | mean ± s.d. | passed |")
    print("|---|---|---|---|---|---|")
    for (model, optimizer), reports in sorted(groups.items()):
        reports.sort(key=lambda report: report["seed"])
        last = [100 * report["last_val_accuracy"] for report in reports]
        spread = f" ± {statistics.stdev(last):.2f}" if len(last) > 1 else ""
        passed = sum(report["passed"] for report in reports)
        print(
            f"| `{model}` | {reports[0]['parameters']:,} | {optimizer} "
            f"| {', '.join(f'{value:.2f}' for value in last)} "
            f"| {statistics.mean(last):.2f}{spread} | {passed} of {len(last)} |"
        )


if __name__ == "__main__":
    main()
