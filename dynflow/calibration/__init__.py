"""What a graph would have done on recorded outcomes, how good that is, and params that keep a promise."""
