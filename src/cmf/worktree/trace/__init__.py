"""Which files a program read and which it wrote.

`witness` chooses how that is found: `strace` where it can be used, which sees every process; else Python's audit hook
for what Python programs open, and the work tree before and after. `Ignoring` says which files count.
"""

from cmf.worktree.trace.accesses import Accesses, Found
from cmf.worktree.trace.ignoring import Ignoring
from cmf.worktree.trace.witnesses import WAYS, Inside, Witness, witness

__all__ = ["WAYS", "Accesses", "Found", "Ignoring", "Inside", "Witness", "witness"]
