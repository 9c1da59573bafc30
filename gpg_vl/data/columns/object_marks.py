"""Fill the marks of named objects in a chat, as ms-swift writes its grounding rows.

`<ref-object>` in the text stands for a name in `objects.ref`; the first mark for the first name. A
model that is asked for "<ref-object>" itself is asked nothing.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from gpg_vl.data.columns import cells
from gpg_vl.errors import shown

MARK = "<ref-object>"
BOX_MARK = "<bbox>"


def filled(texts: Sequence[str], objects: Any) -> list[str]:
    """Return the texts of a chat, in their order, with names in the place of marks.

    Args:
        objects: the cell `objects` of the row, {"ref": ["sheep"], "bbox": ...}.

    Raises:
        ValueError: there are fewer names than marks, or marks of boxes.

    Example:
        filled(["Find the <ref-object>."], {"ref": ["sheep"]}) == ["Find the sheep."]
    """
    together = "\n".join(texts)
    # <bbox>1, 2, 3, 4</bbox> is a box and no mark
    if BOX_MARK in together and "</bbox>" not in together and "bbox" in _fields(objects):
        raise ValueError(
            f"the question has the mark {BOX_MARK} of a box in objects.bbox, which is not filled "
            "in; write the box into the question"
        )
    count = together.count(MARK)
    if not count:
        return list(texts)
    names = _names(_fields(objects))
    if len(names) < count:
        raise ValueError(
            f"the question has {count} marks {MARK}, but the row has {len(names)} names in "
            f"objects.ref, {shown(names)}; write the names into the question"
        )
    following = iter(names)
    return [re.sub(MARK, lambda mark: next(following), text) for text in texts]


def _fields(objects: Any) -> Mapping[str, Any]:
    """Return the cell as a mapping; an empty one where it is none."""
    if isinstance(objects, str):
        objects = cells.mapped(objects)
    return cast(Mapping[str, Any], objects) if isinstance(objects, Mapping) else {}


def _names(fields: Mapping[str, Any]) -> list[str]:
    """Return the names in `objects.ref`; none where there are no such names."""
    names = cells.plain(fields.get("ref"))
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list):
        return []
    return [cells.text_of(name, "objects.ref") for name in cast(list[Any], names)]
