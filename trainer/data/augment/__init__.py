"""Random changes of training samples: functions of tensors and a generator, one subject per file."""
