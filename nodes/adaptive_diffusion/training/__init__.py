"""Training the predictor of steps: whole runs in, a head with its card out."""
