"""Effects of torch's operations on dimensions."""

from compressor.anatomy.rules import elementwise, indexing, products, reshaping  # noqa: F401  (they register)
from compressor.anatomy.rules.composite import COMPOSITES
from compressor.anatomy.rules.rule import RULES, Lookup, Rule, rule, tensors_in

__all__ = ["COMPOSITES", "RULES", "Lookup", "Rule", "rule", "tensors_in"]
