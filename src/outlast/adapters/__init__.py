"""One file per neighbour; none imports another."""
