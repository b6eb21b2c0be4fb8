"""Training by a config: Hydra, Lightning and the callbacks."""
