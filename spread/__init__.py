"""One job over the processes of this machine, or over the machines of a Ray cluster."""
