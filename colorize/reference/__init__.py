"""What a reference is and how it is read: towers, taggers, tokens, edits, cards."""
