"""The U-Net: configuration, layers, attention, region weights, strengths."""
