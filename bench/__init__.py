"""Benchmarks: edgekit's winners compared with the best documented recipes of its peers.

On trained networks and real data.
"""

import os

# Before torch is imported: one thread, so that training is reproducible, and waiting threads
# sleep.
for _variable, _value in (
    ("OMP_NUM_THREADS", "1"),
    ("OPENBLAS_NUM_THREADS", "1"),
    ("OMP_WAIT_POLICY", "passive"),
):
    os.environ.setdefault(_variable, _value)
