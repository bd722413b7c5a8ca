"""`answer_check`: judges a given answer, so that a cheap draft can be kept."""
