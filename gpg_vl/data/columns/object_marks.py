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


def filled(texts: Sequence[str], objects: Any) -> list[str]:
    """Return the texts of a chat, in their order, with names in the place of marks.

    Args:
        objects: the cell `objects` of the row, {"ref": ["sheep"], "bbox": ...}.

    Raises:
        ValueError: there are fewer names than marks.

    Example:
        filled(["Find the <ref-object>."], {"ref": ["sheep"]}) == ["Find the sheep."]
    """
    count = sum(text.count(MARK) for text in texts)
    if not count:
        return list(texts)
    names = _names(objects)
    if len(names) < count:
        raise ValueError(
            f"the question has {count} marks {MARK}, but the row has {len(names)} names in "
            f"objects.ref, {shown(names)}; write the names into the question"
        )
    following = iter(names)
    return [re.sub(MARK, lambda mark: next(following), text) for text in texts]


def _names(objects: Any) -> list[str]:
    """Return the names in `objects.ref`; none where there are no such names."""
    if isinstance(objects, str):
        objects = cells.mapped(objects)
    if not isinstance(objects, Mapping):
        return []
    names = cells.plain(cast(Mapping[str, Any], objects).get("ref"))
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list):
        return []
    return [cells.text_of(name, "objects.ref") for name in cast(list[Any], names)]
