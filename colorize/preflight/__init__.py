"""What is wrong with a set of inputs, and how to mend it."""
