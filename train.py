"""Train a compact network: ``python train.py --help``."""

from pathlib import Path

from mnist_lit.training.hydra import main

if __name__ == "__main__":
    main(Path(__file__).with_name("conf"))
