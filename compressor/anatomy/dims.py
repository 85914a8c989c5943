"""The algebra of dimensions: type inference for axes, by unification.

Operations show equal dimensions, products (heads × channels), concatenations (query | key), and pin coordinates that
they treat differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import Enum, auto


class DimForm(Enum):
    """How a dimension is composed."""

    ATOM = auto()
    PRODUCT = auto()
    CONCAT = auto()


class Dim:
    """A tensor's dimension; unified ones share a root.

    Attributes:
        form, parts: atom, product (major first) or concatenation.
        pinned: coordinates are not interchangeable.
        contracted: summed over (the weight reads).
        looked_up: from a table (an embedding writes).
    """

    __slots__ = ("_same", "contracted", "form", "looked_up", "owner", "parts", "pinned", "size", "slots", "splits")

    def __init__(
        self, size: int, form: DimForm = DimForm.ATOM, parts: Sequence[Dim] = (), *, pinned: bool = False
    ) -> None:
        self.size, self.form, self.parts, self.pinned = size, form, list(parts), pinned
        self.contracted = self.looked_up = False
        self._same: Dim | None = None
        #: The product that a reshape made this a part of.
        self.owner: Dim | None = None
        #: After a selection, per coordinate: {id of a later part of the product: its replacement}.
        self.slots: list[dict[int, Dim]] | None = None
        #: Parts of earlier splits of this product.
        self.splits: list[list[Dim]] = []

    @property
    def root(self) -> Dim:
        """Representative of unified dimensions."""
        dim = self
        while dim._same is not None:
            dim = dim._same
        return dim

    def atoms(self) -> Iterator[Dim]:
        """Atoms without size 1."""
        root = self.root
        if root.form is DimForm.ATOM:
            if root.size > 1:
                yield root
        else:
            for part in root.parts:
                yield from part.atoms()

    def factors(self) -> list[Dim]:
        """Factors without size 1, or itself."""
        root = self.root
        if root.form is not DimForm.PRODUCT:
            return [root] if root.size > 1 else []
        return [factor for part in root.parts for factor in part.factors()]

    def pieces(self) -> list[Dim]:
        """Concatenated parts, or itself."""
        root = self.root
        if root.form is not DimForm.CONCAT:
            return [root]
        return [piece for part in root.parts for piece in part.pieces()]

    @property
    def all_pinned(self) -> bool:
        return all(atom.pinned for atom in self.atoms())

    def alias(self) -> Dim:
        """A dimension with the same root."""
        dim = Dim(self.size)
        dim._same = self
        return dim

    def bind(self, root: Dim) -> None:
        """Make `root` the root."""
        self._same = root
        root.splits += self.splits


#: The dimensions of one tensor.
Dims = list[Dim]


def pin(*dims: Dim) -> None:
    """Mark coordinates as not interchangeable."""
    for dim in dims:
        for atom in dim.atoms():
            atom.pinned = True


def product(parts: Sequence[Dim]) -> Dim:
    """The product of dimensions, outermost first."""
    real = [part for part in parts if part.size > 1]
    if len(real) == 1:
        return real[0]
    if not real:
        return Dim(1)
    return Dim(math.prod(part.size for part in real), DimForm.PRODUCT, real)


def concat(parts: Sequence[Dim]) -> Dim:
    """The concatenation."""
    return parts[0] if len(parts) == 1 else Dim(sum(part.size for part in parts), DimForm.CONCAT, parts)


def unify(left: Dim, right: Dim) -> None:
    """Unify dimensions; pin them if structures differ."""
    left, right = left.root, right.root
    if left is right or left.size == 1 or right.size == 1:
        return
    if left.size != right.size:
        pin(left, right)
    elif left.form is DimForm.ATOM:
        if left.pinned:
            pin(right)
        left.bind(right)
    elif right.form is DimForm.ATOM:
        unify(right, left)
    elif left.form is right.form:
        matched = _matched(left, right)
        if matched is None:
            pin(left, right)
        else:
            for pair in matched:
                unify(*pair)
        left.bind(right)
    else:
        pin(left, right)


def split_product(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Factors with the given sizes; those of an equal earlier split whose coordinates were told apart."""
    for earlier in dim.root.splits:
        if [part.size for part in earlier] == list(sizes) and any(part.slots is not None for part in earlier):
            return earlier
    parts = [Dim(size) for size in sizes]
    whole = product(parts)
    whole.splits.append(parts)
    for part in parts:
        part.owner = whole
    unify(dim, whole)
    return parts


def split_concat(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Parts with the given sizes."""
    parts = [Dim(size) for size in sizes]
    unify(dim, concat(parts))
    return parts


def select_dim(dims: Sequence[Dim], position: int, index: int) -> list[Dim]:
    """The other dimensions after selecting a coordinate.

    Fused projections: product(a, 3, b) becomes product(a, concat(b₀, b₁, b₂)).
    """
    selected, remaining = dims[position], [dim for place, dim in enumerate(dims) if place != position]
    if selected.slots is None and not _open_slots(selected):
        pin(selected)
        return remaining
    slots = selected.slots or []
    return [slots[index % len(slots)].get(id(dim), dim) for dim in remaining]


def slice_dim(dims: Sequence[Dim], position: int, start: int, stop: int) -> list[Dim] | None:
    """The dimensions after selecting several coordinates of the last but one; None if it is no part of a product.

    Query heads, key and value of a group side by side: product(a, 6, b) is then
    product(a, concat(product(4, b₀), b₁, b₂)).
    """
    selected = dims[position]
    if position != len(dims) - 2 or stop <= start or (selected.slots is None and not _open_slots(selected)):
        return None
    slots, last = selected.slots or [], dims[-1]
    run = slots[start:stop]
    if any(id(last) not in slot for slot in run):
        return None
    if len(run) == 1:
        return [*dims[:position], Dim(1), run[0][id(last)]]
    if any(slot is not run[0] for slot in run):
        if any(slots.count(slot) > 1 for slot in run):
            return None
        whole = selected.owner.root if selected.owner else selected
        joined = whole.parts[-1]
        first, heads = run[0][id(last)], Dim(len(run))
        for slot in run[1:]:
            unify(slot[id(last)], first)
        place = next(i for i, part in enumerate(joined.parts) if part is first)
        joined.parts[place : place + len(run)] = [product([heads, first])]
        for index in range(start, stop):
            slots[index] = run[0]
        run[0][id(selected)] = heads
    return [*dims[:position], run[0][id(selected)], run[0][id(last)]]


def _open_slots(selected: Dim) -> bool:
    """Split later factors by coordinate, if possible."""
    owner = selected.owner
    if owner is None or owner.form is not DimForm.PRODUCT or selected.form is not DimForm.ATOM:
        return False
    if selected._same is not None:
        return False
    whole, place = owner.root, next((i for i, part in enumerate(owner.parts) if part is selected), None)
    if place is None or place == len(owner.parts) - 1:
        return False
    before, after = owner.parts[:place], owner.parts[place + 1 :]
    if any(part.form is not DimForm.ATOM or part._same is not None for part in after):
        return False
    if whole is not owner and not (whole.form is DimForm.PRODUCT and whole.factors() == owner.factors()):
        return False
    slots = [{id(part): Dim(part.size, pinned=part.pinned) for part in after} for _ in range(selected.size)]
    whole.parts = [*before, concat([product(list(slot.values())) for slot in slots])]
    selected.slots = slots
    return True


def _matched(first_dim: Dim, second_dim: Dim) -> list[tuple[Dim, Dim]] | None:
    """Pairs of equal parts, splitting atoms, or None."""
    multiplied = first_dim.form is DimForm.PRODUCT
    left, right = (d.factors() if multiplied else d.pieces() for d in (first_dim, second_dim))
    pairs: list[tuple[Dim, Dim]] = []
    while left and right:
        a, b = left.pop(0), right.pop(0)
        if a.size == b.size:
            pairs.append((a, b))
            continue
        larger, smaller, queue = (a, b, left) if a.size > b.size else (b, a, right)
        if larger.form is not DimForm.ATOM or (multiplied and larger.size % smaller.size):
            return None
        if multiplied:
            first, second = split_product(larger, [smaller.size, larger.size // smaller.size])
        else:
            first, second = split_concat(larger, [smaller.size, larger.size - smaller.size])
        pairs.append((first, smaller))
        queue.insert(0, second)
    return None if left or right else pairs
