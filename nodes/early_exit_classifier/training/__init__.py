"""What `dynflow train early-exit` is made of; `dynflow.nodes.early_exit_classifier.train` puts it together."""
