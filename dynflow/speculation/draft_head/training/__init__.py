"""How draft heads are trained: the target's own text, the fit, its figures, its card."""
