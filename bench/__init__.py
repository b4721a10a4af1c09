"""The bench: edgekit's winners beside what its peers' own best documented recipes give, on
trained networks and real data.
"""

import os

# Before torch is imported: one thread, so that training gives the same weights every time,
# and threads that wait sleep.
for _variable, _value in (
    ("OMP_NUM_THREADS", "1"),
    ("OPENBLAS_NUM_THREADS", "1"),
    ("OMP_WAIT_POLICY", "passive"),
):
    os.environ.setdefault(_variable, _value)
