"""What comes out: errors and laws beside those of peers, on benchmarks and on real data."""
