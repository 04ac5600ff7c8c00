"""A plan as text: the tree that `tokenmill plan` prints, `plan.txt` in a run, and the golden copies under test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.engine.plan import PhysicalStep, Plan, Status
from pipeline.stage import Exchange


def _flow(step: PhysicalStep) -> str:
    """What runs in one physical step, in order: `warc > extract_html/text > language/detect`."""
    names = [placed.step for placed in step.chain]
    if step.read_kind == "source" and step.head is not None:
        names.insert(0, f"[{step.head.stage.kind}]")
    elif step.read_kind == "exchange" and step.head is not None:
        assert isinstance(step.head.stage, Exchange)
        names.insert(0, f"({step.head.step})")
    match step.kind:
        case "exchange":
            assert step.write is not None
            assert isinstance(step.write.stage, Exchange)
            names.append(f"-> exchange by {step.write.stage.by} into {step.write.stage.partitions}")
        case "summary":
            names.append("-> summary")
        case "fold":
            names.append("-> table")
        case "sink":
            names.append("-> outside")
        case "rows":
            names.append("-> rows" if step.keep else "-> parts")
    return " > ".join(names[:-1]) + (" " if len(names) > 1 else "") + names[-1]


def plan_lines(plan: Plan, statuses: Mapping[str, Status] | None = None) -> list[str]:
    """The plan, one line per physical step under its dataset; with `statuses`, what is reused and why the rest is not."""
    lines: list[str] = []
    dataset = None
    width = max(len(step.label) for step in plan.steps)
    for step in plan.steps:
        if step.dataset != dataset:
            dataset = step.dataset
            lines.append(f"{dataset}" if dataset not in lines else f"{dataset} (continued)")
        parts = f"{len(step.source_parts)} parts" if step.read_kind == "source" else ""
        lines.append(f"  {step.label:<{width}}  {_flow(step)}{'  ' + parts if parts else ''}")
        if statuses is not None:
            lines.append(f"  {'':<{width}}    {statuses[step.key].why}")
    return lines


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as the readers of a run know it (`plan.json`): folders in force, steps, stages."""
    return {
        "seed": plan.seed,
        "steps": [
            {
                "key": step.key,
                "dataset": step.dataset,
                "label": step.label,
                "kind": step.kind,
                "folder": step.folder,
                "fingerprint": step.fingerprint,
                "nodes": list(step.nodes),
                "reads": list(step.reads),
                "source": step.read_kind == "source",
                "publish": step.publish,
                "keep": step.keep,
            }
            for step in plan.steps
        ],
        "nodes": [
            {
                "key": node.key,
                "dataset": node.dataset,
                "step": node.name,
                "kind": node.stage.kind,
                "word": getattr(node.stage, "word", ""),
            }
            for node in plan.nodes.values()
        ],
    }
