"""The papers' protocols: what is drawn, coloured and measured, and how it is reported."""
