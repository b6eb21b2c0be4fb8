"""Train a compact MNIST classifier: ``python train.py --help``."""

import hydra
from omegaconf import DictConfig

from mnist_lit.launch import errors_as_lines

missed: list[str] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
@errors_as_lines()
def main(cfg: DictConfig) -> float:
    """Run one job; returns what ``optimized_metric`` names."""
    from mnist_lit.training import train  # loads torch, which --help can do without

    result = train(cfg)
    if cfg.requirements.enforce and not result.passed:
        missed.append(str(result.run_dir))
    return result.objective


if __name__ == "__main__":
    with errors_as_lines():
        main()
    if missed:
        raise SystemExit(f"error: requirements not met (see report.md) in {', '.join(missed)}")
