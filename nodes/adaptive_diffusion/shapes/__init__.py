"""A small text-to-image model of a small world: captioned shapes, so that every claim about an image can be checked.

`captions` (what can be asked for), `scenes` (what it may look like) and `oracle` (what an image shows) need no model;
`transformer` and `pipeline` are the model, native to diffusers; `exact` needs no training; `metrics` compares images.
"""
