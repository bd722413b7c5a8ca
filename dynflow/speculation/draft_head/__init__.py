"""A small head, trained on a model's own text, that drafts for it from its last hidden state."""
