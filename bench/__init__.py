"""The bench: edgekit's winners beside what its peers' own best documented recipes give, on trained networks and real data."""
