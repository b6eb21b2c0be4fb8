"""Shapes and types of the package's functions are checked at run time in all tests."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# int is allowed where float is annotated, as PEP 484 has it.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("mnist_lit", "tests.typechecker")
