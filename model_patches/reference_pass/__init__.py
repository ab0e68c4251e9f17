"""Features of the reference read beside the picture: attention injection and AdaIN."""
