"""Pictures and masks: ranges, sizes, blur, line measures, figure masks."""
