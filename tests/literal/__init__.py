"""The networks against slow, literal transcriptions of their definitions, and against the released key lists."""
