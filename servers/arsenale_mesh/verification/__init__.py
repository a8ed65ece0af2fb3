"""Whether a receipt is true: run again, in samples, by bisection, or by a check of the result.

That its node said so, tells its signature: `arsenale_mesh.receipts.problems`.
"""
