"""Shapes and types of the package's functions are checked at run time in all tests."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# An int may be passed for a float, as in PEP 484.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("mnist_lit", "tests.typechecker")
