"""The models as ComfyUI sees them: registration, attention, schedules, sketch control, guidance."""
