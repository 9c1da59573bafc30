"""Read the samples of one source of a config: a recipe, files, or a data set of the hub."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path

from gpg_vl.config import plugins
from gpg_vl.config.paths import expanded, is_folder
from gpg_vl.config.schema import Source
from gpg_vl.data.caches import cache_dir
from gpg_vl.data.columns import cells
from gpg_vl.data.downloads import Downloads
from gpg_vl.data.reading import formats
from gpg_vl.data.reading.files import find_files
from gpg_vl.data.reading.hub import hub_rows
from gpg_vl.data.reading.raw_rows import BadRow, Row
from gpg_vl.data.recipes import ALIASES
from gpg_vl.data.rows import RowFormat, addresses_of, sample_of
from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.pictures import picture_size
from gpg_vl.randomness import seed as addressed_seed
from gpg_vl.types import LeftOut, Sample, Size

Recipe = Callable[..., Iterator[Sample | LeftOut]]
"""A data set as a function: options in; samples out, and the rows that it leaves out."""

ROWS_AT_ONCE = 64
"""Rows whose pictures are downloaded at the same time."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a source that all name their pictures from the same folder."""

    rows: Iterator[Row | BadRow]
    name: str
    """Name of the file or the data set; rows without an id are numbered behind it."""
    image_root: Path | None


@dataclass(slots=True)
class _Columns:
    """Columns that were seen, to find names under `columns:` that no row has."""

    source: Source
    seen: dict[str, None] = field(default_factory=dict[str, None])
    found: set[str] = field(default_factory=set[str])

    def add(self, row: Row) -> None:
        """Note the columns of a row."""
        self.seen |= dict.fromkeys(row)
        for name in _named_columns(self.source):
            if name not in self.found and cells.has(row, name):
                self.found.add(name)

    def check(self, origin: str) -> None:
        """Check after the last row that each named column was in one of them.

        Raises:
            UserError: one was in none.
        """
        for our_column, theirs in self.source.columns.items():
            for name in _listed(theirs):
                if self.seen and name not in self.found:
                    raise UserError(
                        f"{origin}: columns: {our_column}: no row has a column {shown(name)}; "
                        f"there are {one_line(', '.join(self.seen))}"
                    )


def name_of(source: Source) -> str:
    """Return the name of a source: its files, its hub data set or its recipe."""
    if source.files is not None:
        return ", ".join(_listed(source.files))
    if source.hub is not None:
        return f"{source.hub}/{source.subset}" if source.subset else source.hub
    return str(source.recipe)


def read_source(
    source: Source,
    *,
    base_dir: Path,
    key: str,
    size_of: Callable[[Path | bytes], Size] = picture_size,
) -> Iterator[Sample | LeftOut]:
    """Yield the samples of one source, in their order, and the rows that cannot be read.

    Args:
        base_dir: folder of the config; relative files, folders and plug-ins are looked for there,
            then in the working directory.
        key: place of the source in the config, for messages.
        size_of: reads width and height of a picture.

    Raises:
        UserError: the source cannot be read at all; the sentence names file and column.
    """
    if source.part != "all":
        whole = source.model_copy(update={"part": "all", "head": None})
        rows = read_source(whole, base_dir=base_dir, key=key, size_of=size_of)
        return islice(_of_part(rows, source), source.head)
    if source.recipe is not None:
        return islice(_recipe_samples(source, base_dir, key), source.head)
    return _row_samples(source, base_dir, size_of)


def is_test_row(row: Sample | LeftOut, share: float) -> bool:
    """Return True if a row is in the part `test` of its source.

    Rows of one picture are in one part, on every machine and beside any other rows. A picture is
    known by its name and that of its folder: reading the pictures of a large set takes minutes.

    Args:
        share: expected share of the rows in that part.
    """
    if isinstance(row, LeftOut):
        content = row.id
    elif not row.images:
        content = "\n".join([*(turn.text for turn in row.context), row.question])
    elif isinstance(row.images[0], Path):
        content = "/".join(row.images[0].parts[-2:])
    else:
        content = sha256(row.images[0]).hexdigest()
    # a half of a surrogate pair has no bytes of its own
    digest = sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    return addressed_seed("part", digest) < share * 2**63


def _of_part(rows: Iterator[Sample | LeftOut], source: Source) -> Iterator[Sample | LeftOut]:
    """Yield the rows of a source's part; one that cannot be read is in one part, too."""
    wants_test = source.part == "test"
    for row in rows:
        if is_test_row(row, source.test_share) == wants_test:
            yield row


def num_rows(source: Source, base_dir: Path) -> int | None:
    """Return about how many rows a source has, for a progress bar; None = not known beforehand.

    Of a recipe, what its option `count` says.
    """
    count = source.options.get("count")
    if source.recipe is not None and isinstance(count, int):
        return min(count, source.head or count)
    if source.files is None:
        return None
    total = 0
    for path in find_files(source.files, base_dir):
        rows = formats.num_rows(path)
        if rows is None:
            return None
        total += rows
    return min(total, source.head or total)


def check_source(source: Source, *, base_dir: Path, key: str) -> None:
    """Check that a source can be begun: its recipe takes its options, or its files exist.

    Also the folder of its pictures, and the hosts that it lists.

    Nothing is read and nothing is downloaded.

    Raises:
        UserError: it cannot be begun.
    """
    if source.recipe is not None:
        _call_recipe(source, base_dir, key)
        return
    if source.files is not None:
        find_files(source.files, base_dir)
    _image_root(source, base_dir)
    _downloads(source)


def check_columns(source: Source, *, base_dir: Path) -> None:
    """Check that tables have the columns that a source names, where the first row tells them all.

    That is so in CSV and TSV; rows of other formats may differ, so that all have to be read.

    Raises:
        UserError: no table has such a column, or there is no such file.
    """
    if source.files is None or not source.columns:
        return
    columns = _Columns(source)
    for path in find_files(source.files, base_dir):
        if not str(formats.kind_of(path)).startswith((".csv", ".tsv")):
            return
        for row in islice(formats.read(path), 1):
            if isinstance(row, BadRow):
                return
            columns.add(row)
            # a field of a column may be in another row only
            columns.found.update(_fields_of(_named_columns(source), row))
    origin = one_line(name_of(source))
    columns.check(origin)


def _fields_of(names: Iterable[str], row: Row) -> Iterator[str]:
    """Yield the names with dots that lead into a column of a row."""
    for name in names:
        if name.partition(".")[0] in row:
            yield name


def _row_samples(
    source: Source, base_dir: Path, size_of: Callable[[Path | bytes], Size]
) -> Iterator[Sample | LeftOut]:
    columns = _Columns(source)
    downloads = _downloads(source)
    left = source.head
    for part in parts(source, base_dir):
        row_format = RowFormat(
            image_root=part.image_root,
            follow_links=source.image_root is not None,  # a person, not the rows, named the folder
            answer_index=source.answer_index,
            box_format=source.box_format,
            decimal=source.decimal,
            size_of=size_of,
        )
        number = 0
        rest = islice(part.rows, left)
        while rows := list(islice(rest, ROWS_AT_ONCE)):
            with_pictures = row_format
            if downloads is not None:
                fetched = downloads.fetch_all(_addresses(rows, source))
                with_pictures = replace(row_format, downloaded=fetched)
            for row in rows:
                number += 1
                if isinstance(row, BadRow):
                    yield LeftOut(f"{part.name} {row.where}", row.why)
                    continue
                columns.add(row)
                yield _sample_or_reason(row, source, with_pictures, f"{part.name} row {number}")
        if left is not None:
            left -= number
            if not left:  # the files after it are not opened
                break
    columns.check(one_line(name_of(source)))


def _sample_or_reason(
    row: Row, source: Source, row_format: RowFormat, origin: str
) -> Sample | LeftOut:
    try:
        return sample_of(row, source, row_format=row_format, origin=origin)
    except ValueError as error:
        why = str(error)
        if why.endswith("does not exist"):
            why += "; where the pictures are in another folder, set image_root"
    except RecursionError:
        why = "a value is nested too deep, list in list in list; write it flat"
    return LeftOut(_id_of(row, source, origin), why)


def _id_of(row: Row, source: Source, origin: str) -> str:
    """Return the id of a row that cannot be read: its own, if that can be read."""
    name = source.columns.get("id", "id")
    own = row.get(name) if isinstance(name, str) else None
    if not isinstance(own, str | int):
        return origin
    try:
        return cells.text_of(str(own), "id")
    except ValueError:  # it is missing, or cannot be written
        return origin


def parts(source: Source, base_dir: Path) -> Iterator[Rows]:
    """Yield the rows of each file, or of the hub data set."""
    root = _image_root(source, base_dir)
    if source.files is None:
        rows, folder = hub_rows(str(source.hub), source.subset, source.split, base_dir)
        yield Rows(rows, name_of(source), root or folder)
        return
    paths = find_files(source.files, base_dir)
    for path in paths:
        name = _file_name(path, base_dir)
        if isinstance(source.files, str) and len(paths) == 1 and path.name in source.files:
            name = source.files
        yield Rows(formats.read(path), name, root or path.parent)


def _file_name(path: Path, base_dir: Path) -> str:
    """Return the name of a file as text; the bytes of one that is not UTF-8 are escaped."""
    if path.is_relative_to(base_dir):
        path = path.relative_to(base_dir)
    return str(path).encode("utf-8", "backslashreplace").decode()


def _downloads(source: Source) -> Downloads | None:
    """Return what downloads the pictures of a source; None = no host is listed.

    Raises:
        UserError: an entry under `image_hosts:` is no host, or there is no folder for pictures.
    """
    if not source.image_hosts:
        return None
    try:
        return Downloads(source.image_hosts, cache_dir("images"))
    except ValueError as error:
        raise UserError(str(error)) from None


def _image_root(source: Source, base_dir: Path) -> Path | None:
    """Return the folder of the pictures, if the config names one.

    Raises:
        UserError: it does not exist.
    """
    if source.image_root is None:
        return None
    root = expanded(source.image_root)
    for folder in (base_dir / root, root):
        if is_folder(folder):
            return folder
    raise UserError(
        f"image_root: {one_line(source.image_root)} does not exist, neither beside the config "
        f"({base_dir}) nor in the working directory"
    )


def _addresses(rows: Iterable[Row | BadRow], source: Source) -> list[str]:
    """Return the addresses of the pictures of some rows; what cannot be read is told later."""
    addresses: dict[str, None] = {}
    for row in rows:
        if isinstance(row, BadRow):
            continue
        try:
            addresses |= dict.fromkeys(addresses_of(row, source))
        except (ValueError, RecursionError):  # reading the sample gives the reason
            continue
    return list(addresses)


def _named_columns(source: Source) -> Iterator[str]:
    for theirs in source.columns.values():
        yield from _listed(theirs)


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _recipe_samples(source: Source, base_dir: Path, key: str) -> Iterator[Sample | LeftOut]:
    """Yield what a recipe makes; an error in a user's recipe names its file and line."""
    try:
        yield from _call_recipe(source, base_dir, key)
    except Exception as error:
        raise plugins.with_file_and_line(error) from error


def _call_recipe(source: Source, base_dir: Path, key: str) -> Iterable[Sample | LeftOut]:
    of_rows = ("columns", "defaults", "image_root", "image_hosts", "answer_index", "subset")
    of_rows += ("box_format", "decimal")
    unset = Source(recipe=source.recipe)
    given = [name for name in of_rows if getattr(source, name) != getattr(unset, name)]
    if given:
        raise UserError(
            f"{key}: {' and '.join(given)} are for files and hub; a recipe names its columns "
            "itself: leave them out"
        )
    spec = {"kind": source.recipe, **source.options}
    try:
        return plugins.build(spec, ALIASES, base_dir=base_dir, key=key, given={})
    except Exception as error:
        raise plugins.with_file_and_line(error) from error
