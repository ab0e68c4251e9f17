"""What is wrong with a graph's inputs before a run: findings with their fixes, and a report.

Measures and words only, pure torch; nothing is sampled. Pictures are ComfyUI's (B, H, W, C) in 0..1, masks (B, H, W).
The limits are rules of thumb, after the released applications' advice where there is any.
"""

from __future__ import annotations

from .finding import LEVELS, Finding, Inputs
from .masks import count_findings, mask_findings
from .model import model_findings
from .reference import reference_findings
from .samplers import sampler_findings
from .sketch import sketch_findings


def examine(inputs: Inputs) -> list[Finding]:
    """All findings, the worst first."""
    found = [
        *sketch_findings(inputs),
        *reference_findings(inputs),
        *mask_findings(inputs),
        *count_findings(inputs),
        *model_findings(inputs),
        *sampler_findings(inputs),
    ]
    if inputs.core_remark:
        found.append(Finding("warning", "model", inputs.core_remark, "Update ComfyUI, then load the graph again."))
    if not found:
        found = [Finding("note", "sketch", "Nothing is connected.", "Connect a sketch, a reference, masks or a model.")]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def report(findings: list[Finding]) -> str:
    """The findings as text: a line that counts them, then one paragraph each, numbered as in the preview."""
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    words = [f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in LEVELS[:3] if counts[level]]
    lines = [f"Preflight: {', '.join(words) or 'all is well'}."]
    for number, finding in enumerate(findings, start=1):
        fix = f" Fix: {finding.fix}" if finding.fix else ""
        lines.append(f"{number}. {finding.level.upper()} ({finding.subject}): {finding.text}{fix}")
    return "\n".join(lines)
