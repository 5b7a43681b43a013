"""Promotion: the two-sided gate, the ledger, and the aliases that they move."""
