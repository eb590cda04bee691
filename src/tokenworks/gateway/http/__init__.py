"""HTTP on the data plane: the client's side and the upstream's."""
