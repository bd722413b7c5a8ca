"""`early_exit_classifier`: an encoder classifier that easy inputs leave early."""
