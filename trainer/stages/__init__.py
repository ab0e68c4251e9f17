"""What can be trained, one file per family; table.py knows them by name."""
