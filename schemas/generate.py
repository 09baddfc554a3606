"""Write the JSON Schema of events and files into `schemas/json/`: `python -m schemas.generate` (or `make schemas`).

The files are golden: a test fails when they differ from the classes, and `breaking` names every change that is not
additive (a field removed or made required, a type narrowed, an enum value removed).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel

from schemas import control, feedback, inputs, lifecycle, mapping, measures, recall, records

FOLDER = Path(__file__).parent / "json"

EVENTS: dict[str, Any] = {
    "prediction": inputs.Prediction,
    "label": inputs.Label,
    "signal": inputs.Signal,
    "feedback": feedback.Feedback,
    "control": control.Control,
    "measures": measures.Measures,
    "trial": measures.Trial,
    "metric": measures.Metric,
    "drift": measures.Drift,
    "forecast": measures.Forecast,
    "review": measures.Review,
    "gate": measures.Gate,
    "retrain": lifecycle.Retrain,
    "candidate": lifecycle.Candidate,
    "approval": lifecycle.Approval,
    "promote": lifecycle.Promote,
    "rollout-status": lifecycle.RolloutStatus,
    "alert": lifecycle.Alert,
    "step": records.Step,
    "dead-letter": records.DeadLetter,
    "recall-requested": recall.RecallRequested,
    "recalled": recall.Recalled,
}

FILES: dict[str, Any] = {"mapping": mapping.Mapping}
"""What people write: files, whose keys an editor can complete with the schema."""


def schema(event: Any) -> dict[str, Any]:
    """Give the JSON Schema (draft 2020-12) of one event type, or of a file."""
    if isinstance(event, type) and issubclass(event, BaseModel):
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **event.model_json_schema()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(event)}


def render(event: Any) -> str:
    """Give the file's text: sorted keys, so that a change of order in the code is no change here."""
    return json.dumps(schema(event), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def breaking(old: dict[str, Any], new: dict[str, Any], path: str = "$") -> list[str]:
    """Name every difference from `old` to `new` that could reject or change what an old producer or reader does."""
    found: list[str] = []
    for name, definition in old.get("$defs", {}).items():
        if name not in new.get("$defs", {}):
            found.append(f"{path}.$defs.{name} was removed")
        else:
            found += breaking(definition, new["$defs"][name], f"{path}.{name}")
    added = set(new.get("required", ())) - set(old.get("required", ()))
    found += [f"{path}.{name} became required" for name in sorted(added)]
    for name, old_field in old.get("properties", {}).items():
        new_field = new.get("properties", {}).get(name)
        if new_field is None:
            found.append(f"{path}.{name} was removed")
        else:
            found += breaking(old_field, new_field, f"{path}.{name}")
    if "type" in old and "type" in new and old["type"] != new["type"]:
        found.append(f"{path} changed its type from {old['type']} to {new['type']}")
    found += [f"{path} lost the value {value!r}" for value in old.get("enum", ()) if value not in new.get("enum", ())]
    old_kinds, new_kinds = ({json.dumps(kind, sort_keys=True) for kind in side.get("anyOf", ())} for side in (old, new))
    if old_kinds and new_kinds:
        found += [f"{path} lost the alternative {kind}" for kind in sorted(old_kinds - new_kinds)]
    for bound, widens in (("maximum", 1), ("maxLength", 1), ("minimum", -1), ("minLength", -1)):
        if bound in new and (bound not in old or (new[bound] - old[bound]) * widens < 0):
            found.append(f"{path} narrowed {bound} from {old.get(bound)} to {new[bound]}")
    return found


def main() -> None:
    """Write every file that differs and say which."""
    FOLDER.mkdir(exist_ok=True)
    for name, event in (EVENTS | FILES).items():
        path, text = FOLDER / f"{name}.schema.json", render(event)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(FOLDER.parent.parent)}")


if __name__ == "__main__":
    main()
