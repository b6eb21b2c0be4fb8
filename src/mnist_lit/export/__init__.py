"""Export of trained networks to other formats, with one module per format."""
