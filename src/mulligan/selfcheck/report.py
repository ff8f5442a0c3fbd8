"""Verdicts for machines and for people."""

from __future__ import annotations

from typing import Any

from mulligan.selfcheck.verdicts import FAILED, GROUPS, PASSED, SKIPPED, TITLES, Report, Verdict

FORMAT = "mulligan-selfcheck/1"


def as_json(report: Report) -> dict[str, Any]:
    """The report as an object; ``schema`` describes it."""
    return {
        "format": FORMAT,
        "host": report.host,
        "good": report.good,
        "passed": report.count(PASSED),
        "failed": report.count(FAILED),
        "skipped": report.count(SKIPPED),
        "proving": report.proving if report.controlled else None,
        "probes": [
            {
                "id": each.id,
                "group": each.group,
                "tried": each.tried,
                "must": each.must,
                "state": each.vm.state,
                "happened": each.vm.happened,
                "outside": each.outside,
                "control": None
                if each.control is None
                else {"state": each.control.state, "happened": each.control.happened},
                "proves": each.proves,
            }
            for each in report.verdicts
        ],
    }


def _outcome_schema() -> dict[str, Any]:
    return {
        "state": {"enum": [PASSED, FAILED, SKIPPED]},
        "happened": {"type": "string"},
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def schema() -> dict[str, Any]:
    """What ``as_json`` gives, as a JSON Schema (draft 2020-12)."""
    text, count = {"type": "string"}, {"type": "integer", "minimum": 0}
    probe = {
        "id": {"type": "string", "pattern": r"^[a-z]+\.[a-z0-9_]+$"},
        "group": {"enum": list(GROUPS)},
        "tried": text,
        "must": text,
        **_outcome_schema(),
        "outside": {"enum": ["fails", "depends", "passes", "untried"]},
        "control": {"anyOf": [{"type": "null"}, _object(_outcome_schema())]},
        "proves": {"type": ["boolean", "null"]},
    }
    host = _object({"mulligan": text, "driver": text, "kernel": text, "user": text})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_object(
            {
                "format": {"const": FORMAT},
                "host": host,
                "good": {"type": "boolean"},
                "passed": count,
                "failed": count,
                "skipped": count,
                "proving": {"type": ["integer", "null"], "minimum": 0},
                "probes": {"type": "array", "items": _object(probe)},
            }
        ),
    }


def summary(report: Report) -> str:
    """One line."""
    said = f"{report.count(PASSED)} passed, {report.count(FAILED)} failed"
    if report.count(SKIPPED):
        said += f", {report.count(SKIPPED)} not tried"
    if report.controlled:
        said += f"; {report.proving} of them fail without a VM"
    if report.control_failed:
        said += ". Most pass without one, too: they prove nothing here"
    return said


def _cell(text: str) -> str:
    """Text that is no markup in a table of Markdown, nor HTML."""
    text = " ".join(text.split())
    for sign in "\\`*_[]|<>":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("&", "&amp;")


def _without(verdict: Verdict) -> str:
    """What the control shows, in a word."""
    if verdict.control is None:
        return ""
    if verdict.control.state == SKIPPED:
        return "not tried"
    return "fails" if verdict.control.state == FAILED else "passes: proves nothing here"


def markdown(report: Report) -> str:
    """The report as tables, one a group."""
    where = report.host
    lines = [
        f"Mulligan {where['mulligan']}, driver {where['driver']}, {where['kernel']}, run by "
        f"{where['user']}: {summary(report)}.",
    ]
    for group in GROUPS:
        of_group = [each for each in report.verdicts if each.group == group]
        if not of_group:
            continue
        lines += ["", f"### {TITLES[group]}", ""]
        lines += ["| probe | tried | must | happened | | without a VM |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for each in of_group:
            cells = [each.tried, each.must, each.vm.happened, each.vm.state, _without(each)]
            lines.append(f"| `{each.id}` | {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def side_by_side(reports: list[Report]) -> str:
    """Reports of several drivers as tables: how many passed, and each probe that differs.

    Args:
        reports: of the same probes, the first one that the others are held against.
    """
    names = [each.host["driver"] for each in reports]
    lines = [f"- {name}: {summary(each)}." for name, each in zip(names, reports, strict=True)]
    head = [f"`{name}`" for name in names]
    lines += ["", f"| passed | {' | '.join(head)} |", "| --- |" + " --- |" * len(names)]
    for group in GROUPS:
        cells = []
        for report in reports:
            of_group = [each for each in report.verdicts if each.group == group]
            passed = sum(each.vm.state == PASSED for each in of_group)
            cells.append(f"{passed} of {len(of_group)}")
        lines.append(f"| {TITLES[group]} | {' | '.join(cells)} |")
    lines += ["", f"| differs | {' | '.join(head)} |", "| --- |" + " --- |" * len(names)]
    for row in zip(*(each.verdicts for each in reports), strict=True):
        if len({(each.vm.state, each.vm.happened) for each in row}) > 1:
            cells = [_cell(_in_short(each)) for each in row]
            lines.append(f"| `{row[0].id}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _in_short(verdict: Verdict) -> str:
    if verdict.vm.state == PASSED:
        return verdict.vm.happened
    return f"{'not tried' if verdict.vm.state == SKIPPED else 'FAILED'}: {verdict.vm.happened}"
