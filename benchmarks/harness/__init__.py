"""What the benchmarks share: data, peers, measurement, tables and pictures."""
