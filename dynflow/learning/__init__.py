"""What node types that are trained share: rows parted so that nothing leaks, features kept, heads on disk."""
