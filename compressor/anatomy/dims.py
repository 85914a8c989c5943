"""The algebra of tensor dimensions: what a dimension is made of, learned by unification.

Every dimension of every tensor of a forward pass is a `Dim`: at first an atom of some size.  Operations say which
dimensions are the same (`unify`), which are products of others (heads × channels) and which are concatenations
(query | key | value).  What treats coordinates of a dimension unlike each other pins it: pinned coordinates have an
identity, all others are interchangeable.  It is type inference, for axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import Enum, auto


class DimForm(Enum):
    """What a dimension is made of."""

    ATOM = auto()
    PRODUCT = auto()
    CONCAT = auto()


class Dim:
    """A dimension of a tensor; many may turn out to be one.

    Attributes:
        size: coordinates.
        form, parts: an atom, or a product (major part first) or concatenation of parts.
        pinned: for atoms, whether coordinates have an identity.
        contracted: whether this very dimension was summed over in a product (a weight that reads).
        looked_up: whether this very dimension came out of a table (an embedding that writes).
    """

    __slots__ = ("_same", "contracted", "form", "looked_up", "owner", "parts", "pinned", "size", "slots")

    def __init__(
        self, size: int, form: DimForm = DimForm.ATOM, parts: Sequence[Dim] = (), *, pinned: bool = False
    ) -> None:
        self.size, self.form, self.parts, self.pinned = size, form, list(parts), pinned
        self.contracted = self.looked_up = False
        self._same: Dim | None = None
        #: The product that a reshape made this a part of.
        self.owner: Dim | None = None
        #: What takes the place of the parts behind this one for each of its coordinates, once one was selected.
        self.slots: list[dict[int, Dim]] | None = None

    @property
    def root(self) -> Dim:
        """The one dimension that stands for all that were found to be this one."""
        found = self
        while found._same is not None:
            found = found._same
        return found

    def atoms(self) -> Iterator[Dim]:
        """The atoms that it is made of, in order, without trivial ones."""
        root = self.root
        if root.form is DimForm.ATOM:
            if root.size > 1:
                yield root
        else:
            for part in root.parts:
                yield from part.atoms()

    def factors(self) -> list[Dim]:
        """The parts of a product, products inside products taken apart, without trivial ones; else itself."""
        root = self.root
        if root.form is not DimForm.PRODUCT:
            return [root] if root.size > 1 else []
        return [factor for part in root.parts for factor in part.factors()]

    def pieces(self) -> list[Dim]:
        """The parts of a concatenation, those inside others taken apart; else itself."""
        root = self.root
        if root.form is not DimForm.CONCAT:
            return [root]
        return [piece for part in root.parts for piece in part.pieces()]

    @property
    def all_pinned(self) -> bool:
        return all(atom.pinned for atom in self.atoms())

    def alias(self) -> Dim:
        """Another dimension that is this one."""
        other = Dim(self.size)
        other._same = self
        return other

    def bind(self, other: Dim) -> None:
        """Become `other` (both roots)."""
        self._same = other


#: The dimensions of one tensor.
Dims = list[Dim]


def pin(*dims: Dim) -> None:
    """Give the coordinates of dimensions an identity: nothing may be interchanged any more."""
    for dim in dims:
        for atom in dim.atoms():
            atom.pinned = True


def product(parts: Sequence[Dim]) -> Dim:
    """Parts merged into one dimension, the first one outermost."""
    real = [part for part in parts if part.size > 1]
    if len(real) == 1:
        return real[0]
    if not real:
        return Dim(1)
    return Dim(math.prod(part.size for part in real), DimForm.PRODUCT, real)


def concat(parts: Sequence[Dim]) -> Dim:
    """Parts put one after the other."""
    return parts[0] if len(parts) == 1 else Dim(sum(part.size for part in parts), DimForm.CONCAT, parts)


def unify(one: Dim, other: Dim) -> None:
    """Two dimensions turn out to be the same.  Structures that cannot be brought together are pinned."""
    one, other = one.root, other.root
    if one is other or one.size == 1 or other.size == 1:
        return
    if one.size != other.size:
        pin(one, other)
    elif one.form is DimForm.ATOM:
        if one.pinned:
            pin(other)
        one.bind(other)
    elif other.form is DimForm.ATOM:
        unify(other, one)
    elif one.form is other.form:
        matched = _matched(one, other)
        if matched is None:
            pin(one, other)
        else:
            for pair in matched:
                unify(*pair)
        one.bind(other)
    else:
        pin(one, other)


def split_product(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """A dimension viewed as a product of the given sizes."""
    parts = [Dim(size) for size in sizes]
    whole = product(parts)
    for part in parts:
        part.owner = whole
    unify(dim, whole)
    return parts


def split_concat(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """A dimension cut into stretches of the given sizes."""
    parts = [Dim(size) for size in sizes]
    unify(dim, concat(parts))
    return parts


def select_dim(dims: Sequence[Dim], position: int, index: int) -> list[Dim]:
    """Take one coordinate of a dimension away.

    Where a reshape made that dimension part of a product (query, key and value of a fused projection), what lies
    behind it in the product becomes a dimension of its own for every coordinate: product(a, 3, b) turns into
    product(a, concat(b₀, b₁, b₂)).

    Returns:
        The other dimensions, as this coordinate has them.
    """
    taken, rest = dims[position], [dim for place, dim in enumerate(dims) if place != position]
    if taken.slots is None and not _open_slots(taken):
        pin(taken)
        return rest
    slots = taken.slots or []
    return [slots[index % len(slots)].get(id(dim), dim) for dim in rest]


def _open_slots(taken: Dim) -> bool:
    """Give every coordinate of `taken` what lies behind it in its product; False where that is no longer possible."""
    owner = taken.owner
    if owner is None or owner.form is not DimForm.PRODUCT or taken.form is not DimForm.ATOM or taken._same is not None:
        return False
    whole, place = owner.root, next((i for i, part in enumerate(owner.parts) if part is taken), None)
    if place is None or place == len(owner.parts) - 1:
        return False
    before, behind = owner.parts[:place], owner.parts[place + 1 :]
    if any(part.form is not DimForm.ATOM or part._same is not None for part in behind):
        return False
    if whole is not owner and not (whole.form is DimForm.PRODUCT and whole.factors() == owner.factors()):
        return False
    slots = [{id(part): Dim(part.size, pinned=part.pinned) for part in behind} for _ in range(taken.size)]
    whole.parts = [*before, concat([product(list(slot.values())) for slot in slots])]
    taken.slots = slots
    return True


def _matched(one: Dim, other: Dim) -> list[tuple[Dim, Dim]] | None:
    """Pairs of equal parts of two products, or of two concatenations; None where they cannot be brought together.

    Where one side has finer parts, the other's are split to match.
    """
    multiplied = one.form is DimForm.PRODUCT
    left, right = (one.factors(), other.factors()) if multiplied else (one.pieces(), other.pieces())
    pairs: list[tuple[Dim, Dim]] = []
    while left and right:
        a, b = left.pop(0), right.pop(0)
        if a.size == b.size:
            pairs.append((a, b))
            continue
        larger, smaller, rest = (a, b, left) if a.size > b.size else (b, a, right)
        if larger.form is not DimForm.ATOM or (multiplied and larger.size % smaller.size):
            return None
        if multiplied:
            first, second = split_product(larger, [smaller.size, larger.size // smaller.size])
        else:
            first, second = split_concat(larger, [smaller.size, larger.size - smaller.size])
        pairs.append((first, smaller))
        rest.insert(0, second)
    return None if left or right else pairs
