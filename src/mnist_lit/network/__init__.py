"""The networks: blocks, operations, and summaries."""
