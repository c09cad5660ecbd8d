"""edgepress.compress.recover: what pressing lost, partly regained by training what is stored. Needs torch."""

from edgepress.compress.recover.recovery import STAGES, check_stages, recover

__all__ = ["STAGES", "check_stages", "recover"]
