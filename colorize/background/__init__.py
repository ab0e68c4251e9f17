"""Networks that read a background or style picture: XL's plugin, v2's encoders."""
