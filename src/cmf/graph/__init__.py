"""What facts mean: pure folds and questions over an `Index`. No input or output, no clock, no randomness."""
