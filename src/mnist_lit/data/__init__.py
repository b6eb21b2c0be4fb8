"""The images: found, verified, held in memory, cut into batches, distorted."""
