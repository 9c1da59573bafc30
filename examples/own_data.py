"""A data set: a function that yields samples. Here it draws one to four white squares."""

import io
import random
from collections.abc import Iterator

from PIL import Image

from gpg_vl import Sample


def squares(count: int = 100, most: int = 4) -> Iterator[Sample]:
    """`count` pictures of 1 to `most` squares, and how many there are."""
    for index in range(count):
        number = random.Random(index).randint(1, most)
        picture = Image.new("RGB", (56, 56))
        for place in range(number):
            picture.paste("white", (14 * place, 14 * place, 14 * place + 9, 14 * place + 9))
        encoded = io.BytesIO()
        picture.save(encoded, "PNG")
        yield Sample(
            id=f"squares/{index}",
            question="How many squares are there?",
            images=(encoded.getvalue(),),
            sizes=((56, 56),),
            answer_kind="number",
            answer=number,
        )
