"""From a config to a trained network: Hydra, Lightning and the callbacks."""
