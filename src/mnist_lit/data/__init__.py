"""Data sets: files, images in memory, batches, augmentation."""
