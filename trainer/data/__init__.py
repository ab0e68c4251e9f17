"""Training data: folders of pictures and the procedural world."""
