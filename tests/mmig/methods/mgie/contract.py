"""Cases of MGIE for the contract of methods: none as long as its data step stands alone, without a module to train."""

from tests.mmig.methods.contract import Case

CASES: dict[str, Case] = {}
